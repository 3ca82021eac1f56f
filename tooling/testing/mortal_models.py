"""A node's model process that comes to harm: the real one, each child of which takes its fate from a file.

The file has one word a line, and every child takes the first away: "" lives, `start` and `load` die before they hold a model,
`draw` in the middle of an answer, `prove` at a proof; `memory` may take no more of it and tries to; `nonsense` answers so.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from grail_core.child_process.boot import Answers, serve
from grail_core.child_process.frames import Payload

if TYPE_CHECKING:
    from grail_miner.serving.model_frames import Kind

_ROOT = Path(__file__).resolve().parent.parent.parent
_BURSTS = 3  # that a child draws before it dies of drawing
_SPARE = 32 << 20


def mortal_command(fates: Path) -> tuple[str, ...]:
    """For `ModelProcess(command=…)`."""
    program = (
        f"import sys; sys.path[:0] = [*sys.argv[4:], {str(_ROOT)!r}]; "
        f"from tooling.testing.mortal_models import main; main({str(fates)!r})"
    )
    return (sys.executable, "-I", "-B", "-X", "utf8", "-c", program)


def main(fates: str) -> NoReturn:
    from grail_miner.proving.frames import ERRORS
    from grail_miner.serving.model_frames import Kind

    first, *rest = Path(fates).read_text().split("\n") or [""]
    Path(fates).write_text("\n".join(rest))
    serve(lambda: _prepared(first), kinds=Kind, ready=Kind.READY, fault=Kind.FAULT, names=ERRORS)


def _prepared(fate: str) -> Answers[Kind]:
    if fate == "start":
        _die()
    from grail_miner.serving.model_child import answers_of
    from grail_miner.serving.model_frames import Kind
    from grail_miner.serving.models import HfModels

    answers = dict(answers_of(HfModels()))
    bursts = 0

    def load(payload: memoryview) -> Payload:
        return _die()

    def draw(payload: memoryview) -> Payload:
        nonlocal bursts
        bursts += 1
        if bursts > _BURSTS:
            if fate == "nonsense":
                return [b"nonsense"]
            if fate == "memory":
                _use_all_memory()
            _die()
        return drawn(payload)

    drawn = answers[Kind.ADVANCE][1]
    if fate == "load":
        answers[Kind.HOLD] = (Kind.HELD, load)
    if fate in ("draw", "memory", "nonsense"):
        answers[Kind.ADVANCE] = (Kind.DRAWN, draw)
    if fate == "prove":
        answers[Kind.PROVE] = (Kind.PROVED, load)
    return answers


def _use_all_memory() -> None:
    """Raises MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _SPARE, used + _SPARE))
    kept = []
    while True:
        kept.append(bytearray(_SPARE // 8))


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")
