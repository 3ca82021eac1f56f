"""`python -m tooling.testing.engine_double sglang|vllm FLAGS…`: a double of its own process, started as the engine would be.

ENGINE_DOUBLE_FAULTS names a file with a schedule of faults (`Schedule.write`). Beside the engine's interface it answers
`GET /double/state`, and `POST /double/pace` and `/double/faults` change what a test in the same process would change directly.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tooling.testing.engine_double.arguments import parse
from tooling.testing.engine_double.faults import Schedule, fault_of
from tooling.testing.engine_double.setup import Flavour
from tooling.testing.engine_double.web import Call, Reply, Route, Routes

if TYPE_CHECKING:
    from tooling.testing.engine_double.double import EngineDouble

FAULTS_VARIABLE = "ENGINE_DOUBLE_FAULTS"
_OUT_OF_MEMORY = """Traceback (most recent call last):
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 14.19 GiB. GPU 0 has a total capacity of 79.11 GiB of which \
2.46 GiB is free."""


def main(arguments: list[str]) -> int:
    flavours = {str(name): name for name in get_args(Flavour)}
    if not arguments or arguments[0] not in flavours:
        print(f"usage: python -m tooling.testing.engine_double {{{','.join(flavours)}}} FLAGS…", file=sys.stderr)
        return 2
    flavour: Flavour = flavours[arguments[0]]
    rest = arguments[2:] if flavour == "vllm" and arguments[1:2] == ["serve"] else arguments[1:]
    setting = parse(flavour, rest, os.environ)
    file = os.environ.get(FAULTS_VARIABLE)
    faults = Schedule(file=Path(file) if file else None)
    start = faults.strike("start")
    if start is not None and start.kind in ("dies_at_start", "out_of_memory"):
        print(_OUT_OF_MEMORY if start.kind == "out_of_memory" else "RuntimeError: told to die", file=sys.stderr, flush=True)
        return 1
    from tooling.testing.engine_double.double import EngineDouble  # torch: a wrong flag and a death at the start come before

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    double = EngineDouble(setting, faults, more_routes=_own_routes, start=start)
    double.engine.dies = double.server.dies = lambda: os.kill(os.getpid(), signal.SIGKILL)
    double.engine.pace.seconds_per_step = float(os.environ.get("ENGINE_DOUBLE_SECONDS_PER_STEP", "0"))
    print(f"The server is fired up and ready to roll! {double.url}", flush=True)
    stopping.wait()
    double.close()
    return 0


def _own_routes(double: EngineDouble) -> Routes:
    def state(call: Call) -> Reply:
        with double.engine.changed:
            engine = double.engine
            struck = [fault.kind for fault in double.faults.struck]
            value = {
                "steps": engine.steps,
                "running": len(engine.running),
                "waiting": len(engine.waiting),
                "label": engine.label,
            }
        return Reply.json({**value, "digest": double.engine.digest(), "struck": struck, "asked": double.server.asked[-1000:]})

    def pace(call: Call) -> Reply:
        value = call.value()
        if "seconds_per_step" in value:
            double.engine.pace.seconds_per_step = float(value["seconds_per_step"])
        if value.get("release"):
            double.engine.release()
        if "allow" in value:
            double.engine.allow(int(value["allow"]))
        elif "hold" in value:
            double.engine.hold(int(value["hold"]))
        elif value.get("free"):
            double.engine.run_freely()
        return Reply.json({})

    def faults(call: Call) -> Reply:
        double.faults.add(*(fault_of(row) for row in call.value()))
        return Reply.json({})

    return {
        ("GET", "/double/state"): Route("info", state, guarded=False),
        ("POST", "/double/pace"): Route("info", pace, guarded=False),
        ("POST", "/double/faults"): Route("info", faults, guarded=False),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
