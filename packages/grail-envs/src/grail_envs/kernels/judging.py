"""The judgement of an answer, as a sequence of confined processes of which none can decide it alone.

1. `read`: the syntax tree has the asked form. 2. `shapes`: the task's own module says what it is given. 3. `trace`: the
answer's Python runs on shapes alone and leaves plans, the same for the same shapes. 4. `draw`: the task's module makes inputs,
weights and right outputs from seeds that follow from the problem, the answer's text and its plans. 5. `compile`: the launched
kernels compile for sm_90. 6. `run`: the kernels, and nothing else of the answer, run on the inputs. 7. The bytes are compared
here. No clock and no setting has a part in the verdict; a limit that an answer hits is its failure, and a process that is lost
before it has a job is ours.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any, Final

from grail_core.environment import Grade
from grail_core.errors import EnvironmentUnavailableError
from grail_envs.kernels.comparing import Expected, array_of, difference
from grail_envs.kernels.drawing import (
    SHAPES_SEED,
    Drawn,
    Shapes,
    Task,
    batches,
    drawn_of,
    fresh_seeds,
    ignores_inputs,
    shapes_of,
)
from grail_envs.kernels.plan import Plan, PlanError
from grail_envs.kernels.rewards import KERNEL_REWARDS
from grail_envs.sandbox.jobs import Limits, Ruling
from grail_envs.sandbox.pool import Kind, shared_pool

LIMITS: Final = Limits(cpu_s=10.0, wall_s=20.0, memory_bytes=4 * 2**30)
TRACE_LIMITS: Final = Limits(cpu_s=5.0, wall_s=10.0, memory_bytes=4 * 2**30)
"""Of `forward` without values, which takes an honest answer a tenth of a second."""

MAX_MESSAGE: Final = 8 * 2**20
"""Bytes of draws that one message is meant to hold; a draw that is larger goes alone, and fits (`reference.MAX_ELEMENTS`)."""

MAX_PLANS_TEXT: Final = 2 * 2**20

_SIDE: Final = "grail_envs.kernels.confined_side"
_PACKAGES: Final = ("torch", "triton", "numpy")
_VARIABLES: Final = (
    ("OMP_NUM_THREADS", "1"),
    ("OPENBLAS_NUM_THREADS", "1"),
    ("MKL_NUM_THREADS", "1"),
    ("TRITON_DEFAULT_FP_FUSION", "0"),
)
_INTERPRETED: Final = (*_VARIABLES, ("TRITON_INTERPRET", "1"))
MOST_LANES: Final = 8
"""Zygotes of a kind; each holds PyTorch and Triton, 0.4 GiB."""

COMPILER: Final = Kind("kernel-compiler", (_SIDE,), _PACKAGES, _SIDE, _VARIABLES, "triton", "kernels", MOST_LANES)
INTERPRETER: Final = Kind("kernel-interpreter", (_SIDE,), _PACKAGES, _SIDE, _INTERPRETED, "triton", "kernels", MOST_LANES)


class _Ended(Exception):
    """The judgement ends here with this grade."""

    def __init__(self, grade: Grade) -> None:
        super().__init__(grade.detail)
        self.grade = grade


class Judgement:
    """One answer to one task, stage by stage; `share` is the largest share of a limit that a stage used.

    What a stage found stays: `module` of kernels alone, `shapes` and `plans` of the calls, `drawn` inputs and right outputs.
    """

    def __init__(self, task: Task, code: str, seed: int) -> None:
        self.task = task
        self.code = code
        self.share = 0.0
        self.module = ""
        self.shapes: list[Shapes] = []
        self.plans: list[dict[str, Any]] = []
        self.seeds: list[int] = []
        self.drawn: list[Drawn] = []
        self._seed = seed

    def grade(self, *, unread: bool = False) -> Grade:
        """All stages; never raises for any text. `unread` leaves the first one out, to try the borders behind it.

        Raises:
            EnvironmentUnavailableError: this machine cannot judge kernels at all (no Triton, no sandbox).
        """
        need_triton()
        try:
            if not unread:
                self._read()
            self._show_shapes()
            self._trace()
            self._draw()
            self._compile()
            self._run()
        except _Ended as ended:
            return ended.grade
        values = {"format": 1.0, "compiles": 1.0, "correct": 1.0}
        return KERNEL_REWARDS.graded(values, success=True, well_formed=True, detail="", limit_share=self.share)

    def problem_of_task(self) -> str:
        """Why no answer to the task can be judged, "" where one can; of the answer nothing is looked at.

        Raises:
            EnvironmentUnavailableError: this machine cannot judge kernels at all.
        """
        need_triton()
        try:
            self._show_shapes()
            self._draw()
        except _Ended as ended:
            return ended.grade.detail
        return ""

    def _read(self) -> None:
        said = self._asked(COMPILER, {"stage": "read", "code": self.code}, {})
        if said.get("problem") != "":
            raise self._failed({}, f"form: {_words(said.get('problem'))}")
        self.module = str(said.get("module"))

    def _show_shapes(self) -> None:
        said = self._of_task("shapes", [SHAPES_SEED] * len(self.task.draws), [0] * len(self.task.draws))
        try:
            self.shapes = [shapes_of(one) for one in said]
        except (KeyError, TypeError, ValueError) as error:
            raise self._no_task(f"gives no shapes: {error}") from None

    def _trace(self) -> None:
        message = {"stage": "trace", "code": self.code, "calls": [one.call for one in self.shapes]}
        said = self._asked(INTERPRETER, message, _FORM)
        plans = said.get("plans")
        if not isinstance(plans, list) or len(plans) != len(self.shapes):
            raise self._failed(_FORM, f"forward: {_words(said.get('problem'))}")
        try:
            read = [Plan.read(plan) for plan in plans]
        except PlanError as error:
            raise self._failed(_FORM, f"forward: {error}") from None
        if not all(plan.launches for plan in read):
            raise self._failed(_FORM, "forward: no kernel is launched")
        self.plans = [plan.said() for plan in read]
        first: dict[str, dict[str, Any]] = {}
        for shapes, plan in zip(self.shapes, self.plans, strict=True):
            if first.setdefault(json.dumps(shapes.call), plan) != plan:
                raise self._failed(_FORM, "forward: two calls with the same shapes do not do the same")
        if len(json.dumps(self.plans)) > MAX_PLANS_TEXT:
            raise self._failed(_FORM, f"forward: its plans are longer than {MAX_PLANS_TEXT >> 20} MiB")

    def _draw(self) -> None:
        self.seeds = fresh_seeds(self.task, self.code, self._seed, self.plans)
        said = self._of_task("draw", self.seeds, [one.size for one in self.shapes])
        try:
            self.drawn = [drawn_of(one) for one in said]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._no_task(f"gives no values that are compared: {error}") from None
        if any(one.call != shapes.call for one, shapes in zip(self.drawn, self.shapes, strict=True)):
            raise self._no_task("gives other shapes in every draw")
        if ignores_inputs(self.drawn):
            raise self._no_task("has the same right outputs whatever its inputs are")

    def _of_task(self, stage: str, seeds: list[int], sizes: list[int]) -> list[dict[str, Any]]:
        """What the task's module says of all draws, in as many messages as it takes."""
        tasks = [{"source": source, "seed": seed} for source, seed in zip(self.task.draws, seeds, strict=True)]
        found: list[dict[str, Any]] = []
        for batch in batches(sizes, MAX_MESSAGE):
            ruling = shared_pool(INTERPRETER).ask({"stage": stage, "tasks": [tasks[number] for number in batch]}, LIMITS)
            said: dict[str, Any] = _reply(ruling) if ruling.conclusive and ruling.passed else {"problem": ruling.detail}
            if not isinstance(said.get("draws"), list) or len(said["draws"]) != len(batch):
                raise self._no_task(f"gives no reference: {_words(said.get('problem'))}")
            found += said["draws"]
        return found

    def _no_task(self, why: str) -> _Ended:
        return _Ended(KERNEL_REWARDS.inconclusive(f"the task {self.task.name} {why}"[:300]))

    def _compile(self) -> None:
        said = self._asked(COMPILER, {"stage": "compile", "code": self.code, "plans": self.plans}, _FORM)
        if "ptx" not in said:
            raise self._failed(_FORM, f"compiling: {_words(said.get('problem'))}")

    def _run(self) -> None:
        runs = [(number, 0, False) for number in range(len(self.drawn))] + [(0, 0, True), (0, 1, False)]
        sizes = [self.shapes[number].size + len(json.dumps(self.plans[number])) for number, _, _ in runs]
        for batch in batches(sizes, MAX_MESSAGE):
            numbers = [runs[place][0] for place in batch]
            asked = [
                {
                    "plan": self.plans[number],
                    "contents": self.drawn[number].contents,
                    "poison": poison,
                    "reverse": reverse,
                    "place": self.seeds[number] + place,
                }
                for place, (number, poison, reverse) in ((place, runs[place]) for place in batch)
            ]
            said = self._asked(INTERPRETER, {"stage": "run", "code": self.code, "runs": asked}, _COMPILES)
            found = said.get("runs")
            if not isinstance(found, list) or len(found) != len(batch):
                raise self._failed(_COMPILES, f"running: {_words(said.get('problem'))}")
            for number, outputs in zip(numbers, found, strict=True):
                try:
                    wrong = wrong_with(outputs, self.drawn[number].expected)
                except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                    wrong = f"no outputs: {type(error).__name__}"
                if wrong:
                    raise self._failed(_COMPILES, f"outputs: {wrong} (draw {number + 1} of {len(self.drawn)})")

    def _asked(self, kind: Kind, message: dict[str, Any], earned: dict[str, float]) -> dict[str, Any]:
        """What a stage says; a grade where it says nothing."""
        ruling = shared_pool(kind).ask(message, TRACE_LIMITS if message["stage"] == "trace" else LIMITS)
        if not ruling.conclusive:
            raise _Ended(KERNEL_REWARDS.inconclusive(ruling.detail))
        self.share = max(self.share, ruling.limit_share)
        if not ruling.passed:
            raise self._failed(earned, f"{message['stage']}: {ruling.detail}")
        return _reply(ruling)

    def _failed(self, earned: dict[str, float], detail: str) -> _Ended:
        grade = KERNEL_REWARDS.graded(
            earned, success=False, well_formed=bool(earned), detail=detail[:300], limit_share=self.share
        )
        return _Ended(grade)


_FORM: Final = {"format": 1.0}
_COMPILES: Final = {"format": 1.0, "compiles": 1.0}


def wrong_with(outputs: list[list[Any]], expected: tuple[Expected, ...]) -> str:
    """What is wrong with one run of the kernels, "" where it is right."""
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs in the place of {len(expected)}"
    for (dtype, shape, raw, by_kernel, all_written), right in zip(outputs, expected, strict=True):
        wrong = difference(right, dtype, tuple(shape), array_of(dtype, tuple(shape), base64.b64decode(raw)))
        if wrong:
            return wrong
        if right.values.size and not (by_kernel and all_written):
            return "an output, or a part of it, was not written by a kernel"
    return ""


@cache
def need_triton() -> None:
    """Refuse before anything is judged.

    Raises:
        EnvironmentUnavailableError: Triton or PyTorch is not installed.
    """
    import importlib.util

    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentUnavailableError(
            f"kernels cannot be judged: {', '.join(missing)} is not installed",
            where="triton_kernel",
            hint="pip install 'grail-envs[triton]'",
        )


def _reply(ruling: Ruling) -> dict[str, Any]:
    try:
        said = json.loads(ruling.output)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _words(said: Any) -> str:
    return said[:250].encode("utf-8", "replace").decode() if isinstance(said, str) else "no reply"
