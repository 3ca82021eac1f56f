"""Real engines on this machine's processor, held against the verifier, end to end over HTTP. Needs a network the first time.

    hatch run conformance                       both engines, bf16 and float32
    hatch run conformance --engine vllm --json  one of them, one JSON object
    hatch run conformance --speed               with and without our processor, too

Exit code 0: everything conforms; 1: a check fails; 3: the environment cannot be built.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from grail_core.errors import GrailError
from grail_core.generation.base import ServedWeights
from tooling.conformance.checks import Checked, Checkpoints, checks
from tooling.conformance.engine import Dtype, Engine, running
from tooling.conformance.environment import BuildError, EngineEnvironment, default_cache, engine_environment
from tooling.conformance.models import make_folders, served
from tooling.conformance.speed import REQUESTS, compare

_DTYPES: dict[str, tuple[Dtype, ...]] = {"both": ("bfloat16", "float32"), "bfloat16": ("bfloat16",), "float32": ("float32",)}
_ENGINES: dict[str, tuple[Engine, ...]] = {"both": ("sglang", "vllm"), "sglang": ("sglang",), "vllm": ("vllm",)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=[*_ENGINES], default="both")
    parser.add_argument("--dtype", choices=[*_DTYPES], default="both")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="where the environment is kept (default: %(default)s)"
    )
    parser.add_argument("--speed", action="store_true", help="also without our processor: its speed, and that it is found out")
    parser.add_argument("--details", action="store_true", help="margins, and where it breaks, of every check of tokens")
    parser.add_argument("--json", action="store_true", dest="as_json")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # what the checks provoke (foreign end tokens, a roll that fails) is in the table
    try:
        environment = engine_environment(asked.cache)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    if not asked.as_json:
        print("versions: " + ", ".join(f"{name} {version}" for name, version in environment.versions.items()), flush=True)
    runs = []
    with tempfile.TemporaryDirectory(prefix="grail-conformance-") as scratch:
        for engine in _ENGINES[asked.engine]:
            for dtype in _DTYPES[asked.dtype]:
                runs.append(_run(engine, dtype, environment, Path(scratch), asked))
    passed = all(run["passed"] for run in runs)
    if asked.as_json:
        print(json.dumps({"passed": passed, "versions": environment.versions, "runs": runs}, indent=1))
    else:
        print("all conform" if passed else "DOES NOT CONFORM")
    return 0 if passed else 1


def _run(
    engine: Engine, dtype: Dtype, environment: EngineEnvironment, scratch: Path, asked: argparse.Namespace
) -> dict[str, object]:
    """One engine in one dtype; what fails is in the table, and the engine's last lines below it."""
    place = scratch / f"{engine}-{dtype}"
    first, second, hostile = make_folders(place)
    given = Checkpoints(served(first, "a", dtype), served(second, "b", dtype), served(hostile, "a", dtype))
    found: list[Checked] = []
    try:
        with running(engine, dtype, environment.python, given.hostile, place / "state") as one:
            found.append(Checked("start", True, f"{one.start_s:.0f} s", {"seconds": one.start_s}))
            _say(engine, dtype, found[-1], asked)
            for checked in checks(one, given, dtype):
                found.append(checked)
                _say(engine, dtype, checked, asked)
    except (GrailError, RuntimeError) as error:
        found.append(Checked("engine", False, str(error)))
        _say(engine, dtype, found[-1], asked)
    if asked.speed:
        for checked in _speed(engine, dtype, environment, given.first, place / "state"):
            found.append(checked)
            _say(engine, dtype, checked, asked)
    listed = {one.name: {"passed": one.passed, "says": one.says, **one.figures} for one in found}
    return {"engine": engine, "dtype": dtype, "passed": all(one.passed for one in found), "checks": listed}


def _speed(
    engine: Engine, dtype: Dtype, environment: EngineEnvironment, weights: ServedWeights, state: Path
) -> Iterator[Checked]:
    try:
        found = compare(engine, dtype, environment.python, weights, state)
    except (GrailError, RuntimeError) as error:
        yield Checked("tokens a second", False, str(error))
        return
    told = [cause.name for cause in found.control.causes]
    says = f"{found.control.reading.agreement:.2%} agree; told: {', '.join(told)}"
    yield Checked("without our processor", not found.control.conforms and "greedy" in told, says, {"told": told})
    seeded, greedy = statistics.median(found.seeded), statistics.median(found.greedy)
    says = f"{seeded:.0f} with our processor, {greedy:.0f} without, greedily ({seeded / greedy:.2f})"
    figures: dict[str, object] = {"with": found.seeded, "without": found.greedy, "requests": REQUESTS}
    yield Checked("tokens a second", True, says, figures)


def _say(engine: Engine, dtype: Dtype, checked: Checked, asked: argparse.Namespace) -> None:
    if asked.as_json:
        return
    print(f"{engine:7} {dtype:9} {'ok  ' if checked.passed else 'FAIL'} {checked.name:32} {checked.says}", flush=True)
    if asked.details or not checked.passed:
        for line in checked.lines:
            print(f"      {line}")


if __name__ == "__main__":
    sys.exit(main())
