"""An answer's kernels on a GPU beside its grade: whether they are right there too, how fast, and the timed score.

The grade is made first, as every validator makes it. Only what it takes for right is run on a GPU, with the plans and inputs
that it was graded with. What comes out is for one machine: no claim, file or verdict of the protocol holds it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

from grail_core.environment import Grade
from grail_envs.kernels.comparing import array_of, difference
from grail_envs.kernels.gpu.workers import Workers
from grail_envs.kernels.judging import Judgement
from grail_envs.kernels.rewards import timed_score

REPETITIONS: Final = 30
TENSOR_FLOAT_UNIT: Final = 2.0**-11
"""Unit roundoff of TF32, in which a GPU multiplies float32 unless a kernel asks for IEEE."""

_NOT_RUN: Final = "not run: it is not right without a GPU"


@dataclass(frozen=True)
class TimedReport:
    """`right` says whether the GPU's outputs are right within the tolerance of TF32; times are medians in milliseconds.

    A time is None where nothing was measured: of an answer that is wrong, and of what did not run.
    """

    grade: Grade
    right: bool
    problem: str
    kernel_ms: float | None = None
    reference_ms: float | None = None

    @property
    def speed_up(self) -> float | None:
        return self.reference_ms / self.kernel_ms if self.right and self.kernel_ms and self.reference_ms else None

    @property
    def score(self) -> float:
        """sigmoid(1{correct} + min(speed-up, 3) − 1.8)."""
        return timed_score(correct=self.right, speed_up=self.speed_up or 0.0)

    def fields(self) -> dict[str, Any]:
        """What a person or a program is told beside the grade."""
        return {
            "right_on_gpu": self.right,
            "problem": self.problem,
            "kernel_ms": self.kernel_ms,
            "reference_ms": self.reference_ms,
            "speed_up": self.speed_up,
            "timed_score": self.score,
        }


def timed_report(judgement: Judgement, workers: Workers, *, repetitions: int = REPETITIONS) -> TimedReport:
    """Grade an answer, then run and time it.

    Raises:
        EnvironmentUnavailableError: this machine cannot judge kernels at all.
        MachineFaultError: no process comes up on its GPU.
    """
    grade = judgement.grade()
    if not grade.success:
        return TimedReport(grade, False, _NOT_RUN)
    kernels = {
        "module": judgement.module,
        "name": "<timed kernels>",
        "plans": judgement.plans,
        "contents": [one.contents for one in judgement.drawn],
        "repetitions": repetitions,
    }
    found, other = workers.both(kernels, {"source": judgement.task.draws[0], "repetitions": repetitions})
    problem = str(found.get("problem") or other.get("problem") or _wrong(found, judgement))
    return TimedReport(grade, not problem, problem, _time(found), _time(other))


def _time(found: dict[str, Any]) -> float | None:
    return float(found["ms"]) if "ms" in found else None


def _wrong(found: dict[str, Any], judgement: Judgement) -> str:
    for outputs, drawn in zip(found["outputs"], judgement.drawn, strict=True):
        for (dtype, shape, raw), right in zip(outputs, drawn.expected, strict=True):
            values = array_of(dtype, tuple(shape), base64.b64decode(raw))
            wrong = difference(right, dtype, tuple(shape), values, least_unit=TENSOR_FLOAT_UNIT)
            if wrong:
                return f"on the GPU: {wrong}"
    return ""
