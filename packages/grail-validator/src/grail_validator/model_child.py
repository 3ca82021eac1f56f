"""The model process: it loads the checkpoints that it is told to from this machine's cache, and computes what it is asked.

Its parent is `model_process`, and nobody else starts it. It has no wallet, no store and no chain; what it knows of a miner are
token ids, positions and a seed. It lives as long as its parent: the parent holds the other end of its standard input, and when
that end is gone, however, the kernel kills it (elsewhere than on Linux a thread of its own does).
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import math
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from grail_core.errors import CheckpointError, ConfigurationError, GrailError, StorageError, is_out_of_memory
from grail_core.proof.alternative_test import REFERENCE
from grail_validator import model_frames as frames
from grail_validator.compared_models import ComparedModels
from grail_validator.model_frames import Frame, Kind

if TYPE_CHECKING:
    from grail_core.model.policy_model import Attention, PolicyModel
    from grail_core.proof.in_process import InThisProcess

MAX_REQUEST_BYTES = 256 << 20
"""Our parent's requests are below 16 MiB: 80 rows of 12,288 tokens."""
_KINDS = {CheckpointError: "checkpoint", StorageError: "storage", ConfigurationError: "configuration", GrailError: "machine"}


def main() -> NoReturn:
    """Arguments: the descriptor of the connection, device, attention."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever stops all processes at once lets the validator end the step it is in
    connection = socket.socket(fileno=int(sys.argv[1]))
    _end_with_parent()
    faulthandler.enable()
    answer = partial(frames.send, connection, deadline=math.inf)
    try:
        models = _Models(device=sys.argv[2], attention=cast("Attention", sys.argv[3]))
    except Exception as error:  # noqa: BLE001 - the parent decides what it means
        answer(Kind.FAULT, 0, frames.pack(fault_of(error)))
        os._exit(1)
    answer(Kind.READY, 0, frames.pack({}))
    while True:
        try:
            asked = frames.receive(connection, math.inf, largest=MAX_REQUEST_BYTES)
        except frames.FrameError:
            os._exit(0)  # the parent has gone
        kind, payload = _answer(models, asked)
        answer(kind, asked.job, payload)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")  # rather this process than the one that holds a verdict
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _answer(models: _Models, asked: Frame) -> tuple[Kind, list[bytes | memoryview]]:
    answers: dict[Kind, tuple[Kind, Callable[[memoryview], list[bytes | memoryview]]]] = {
        Kind.HOLD: (Kind.HELD, models.hold),
        Kind.LOAD: (Kind.LOADED, models.load),
        Kind.MEASURE: (Kind.MEASURED, models.measure),
        Kind.SKETCHES: (Kind.SKETCHED, models.sketches),
    }
    kind, compute = answers[asked.kind]
    try:
        return kind, compute(asked.payload)
    except Exception as error:  # noqa: BLE001 - told to the parent, which ends this process for it
        return Kind.FAULT, frames.pack(fault_of(error))


def fault_of(error: Exception) -> dict[str, str]:
    """What the parent is told of an error: its kind, what, where and hint; of one that nobody foresaw its traceback."""
    if isinstance(error, GrailError):
        kind = next(name for base, name in _KINDS.items() if isinstance(error, base))
        return {"fault": kind, "what": error.what[:2_000], "where": error.where[:2_000], "hint": error.hint[:2_000]}
    if is_out_of_memory(error):
        return {"fault": "machine", "what": f"out of memory: {str(error)[:500]}", "where": "", "hint": ""}
    told = "".join(traceback.format_exception(error))
    return {"fault": "unforeseen", "what": type(error).__name__, "where": "", "hint": ascii(told[-8_000:])}


class _Models:
    """The models in this process: of one window at a time. Those that the next one needs too stay."""

    def __init__(self, *, device: str, attention: Attention) -> None:
        from transformers import AutoModelForCausalLM  # noqa: F401 - takes seconds, better now than in a window

        from grail_core.model.policy_model import require_device
        from grail_core.proof import in_process  # noqa: F401 - the same

        require_device(device)
        self._device, self._attention = device, attention
        self._held: dict[str, PolicyModel] = {}  # by digest
        self._unusable: dict[str, str] = {}
        self._work: InThisProcess | None = None
        self._names: list[str] = []

    def hold(self, payload: memoryview) -> list[bytes | memoryview]:
        """One checkpoint of a window from its folder, which need not stay. First goes what the window does not need: two
        windows' models need not fit at a time."""
        from grail_core.model.policy_model import PolicyModel

        told, _ = frames.unpack(payload)
        digest, wanted = str(told["digest"]), set(told["wanted"])
        self._work = None
        self._held = {one: model for one, model in self._held.items() if one in wanted}
        gc.collect()
        if digest not in self._held:
            try:
                self._held[digest] = PolicyModel.load(told["folder"], attention=self._attention, device=self._device)
            except CheckpointError as error:
                if not told["dispensable"]:
                    raise
                self._unusable[digest] = error.what[:500]
        return frames.pack({})

    def load(self, payload: memoryview) -> list[bytes | memoryview]:
        """What a window is judged with, of what is held, and the facts of its own model. What could not be held is named."""
        from grail_core.proof.in_process import InThisProcess

        told, _ = frames.unpack(payload)
        compared = ComparedModels(**told["compared"])
        model = self._held[str(told["digest"])]
        model.logits(model.hidden_states([[0, 0]])[0])  # what this device cannot do it shall not do before anybody's work
        earlier = dict(told["earlier"])
        weights = {name: self._held[digest].state for name, digest in earlier.items() if digest in self._held}
        missing = {name: self._unusable.get(digest, "") for name, digest in earlier.items() if name not in weights}
        # Their float32 copy takes twice the model's memory, and a window without a drawn file needs none.
        self._work = InThisProcess(model, lambda: compared.alternatives(model, weights))
        self._names = [REFERENCE, *weights, *(("int8", "int8-groups") if compared.eight_bit else ())]
        names = self._names if len(self._names) > 1 else []
        return frames.pack({"facts": vars(self._work.facts), "names": names, "missing": missing})

    def measure(self, payload: memoryview) -> list[bytes | memoryview]:
        assert self._work is not None  # the parent asks after it has loaded
        return frames.answer_measured(self._work.measure(*frames.asked_measured(payload)))

    def sketches(self, payload: memoryview) -> list[bytes | memoryview]:
        assert self._work is not None
        rows, signs = frames.asked_sketches(payload)
        return frames.answer_sketches(self._work.sketches(rows, signs), rows, self._names)
