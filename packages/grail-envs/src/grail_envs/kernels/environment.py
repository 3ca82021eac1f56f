"""`triton_kernel`: write a Triton kernel that does what a PyTorch module does.

A problem shows a module; the answer is a module with `ModelNew`, whose `forward` launches kernels. Problems are our own tasks
with drawn sizes (`source` own), or KernelBench's (`source` kernelbench). How answers are judged is in `judging`; that needs the
extra `grail-envs[triton]`, which the problems do without.
"""

from __future__ import annotations

import os
from typing import Any, Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import ConfigurationError
from grail_envs.code_answers import code_of
from grail_envs.data_sets import row_permutation, rows_digest
from grail_envs.draws import Draws, checked_seed
from grail_envs.kernels.drawing import Task
from grail_envs.kernels.judging import Judgement
from grail_envs.kernels.kernelbench import FIELDS, kernelbench_rows, task_of
from grail_envs.kernels.rewards import KERNEL_REWARDS
from grail_envs.kernels.tasks import OWN_TASKS
from grail_envs.kernels.triton_version import JUDGED_BY, need_version

VERSION: Final = 1
SOURCES: Final = ("own", "kernelbench")
KERNEL_SYSTEM: Final = (
    "You write GPU kernels in Triton. You are given a PyTorch module `Model`. Write a module with a class `ModelNew` "
    "that takes the same arguments, has the same weights by the same names, and whose forward gives the same outputs, "
    "computed by kernels of your own: functions at the top level with @triton.jit, launched as kernel[grid](...). "
    "Outside of kernels only allocate, take views, and launch; no computing operation of PyTorch, no reading of "
    "values, no try, no getattr. No two programs of a grid may write the same place without an atomic. It must work for "
    "other sizes than those shown. End your reply with one block of complete code between "
    "```python and ```; only the last block counts."
)
NO_CODE: Final = KERNEL_REWARDS.graded({}, success=False, well_formed=False, detail="no Python block")


class TritonKernelEnvironment:
    """Triton kernels in the place of PyTorch modules.

    `source` is own or kernelbench; `tasks` are names of own tasks or of rows, a list or text with commas (none: all), `levels`
    and `revision` are KernelBench's; `triton` is the version (major.minor) that judges; `data_dir` holds kernelbench/
    (default: GRAIL_DATA_DIR, else the hub).

    Raises:
        ConfigurationError: an unknown source, task or level, or a version that is none.
        EnvironmentUnavailableError: another Triton is installed, or the set is not there, is unreadable, or has a broken row.
    """

    rewards = KERNEL_REWARDS
    capabilities = Capabilities(data_folder=True)

    def __init__(
        self,
        source: str = "own",
        tasks: tuple[str, ...] | list[str] | str = (),
        levels: tuple[int, ...] | list[int] | int = (1,),
        revision: str = "",
        triton: str = JUDGED_BY,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if source not in SOURCES:
            raise ConfigurationError(f"triton_kernel has no source {source!r}", where="source", hint=", ".join(SOURCES))
        need_version(triton)
        tasks = _texts(tasks)
        levels = (levels,) if isinstance(levels, int) else levels
        parameters: dict[str, Any] = {"source": source, "tasks": list(tasks), "triton": triton}
        digest = ""
        if source == "own":
            unknown = sorted(set(tasks) - OWN_TASKS.keys())
            if unknown:
                raise ConfigurationError(
                    f"there is no task {unknown[0][:60]!r}", where="tasks", hint=f"tasks: {', '.join(OWN_TASKS)}"
                )
            self._own = [task for name, task in OWN_TASKS.items() if not tasks or name in tasks]
            count = len(self._own)
            digest = rows_digest(
                (
                    {
                        "name": one.name,
                        "body": one.body,
                        "sizes": {k: list(v) for k, v in one.sizes.items()},
                        "scales": [str(scale) for scale in one.scales],
                    }
                    for one in self._own
                ),
                ("name", "body", "sizes", "scales"),
            )
        else:
            rows = kernelbench_rows(tuple(levels), tuple(tasks), revision, data_dir)
            self._rows = [task_of(row) for row in rows]
            parameters |= {"levels": list(levels), "revision": revision}
            count, digest = len(rows), rows_digest(rows, FIELDS)
        self._source = source
        self._order = row_permutation(f"triton_kernel/{source}", count)
        self._spec = EnvironmentSpec(env_id="triton_kernel", version=VERSION, parameters=parameters, data_digest=digest)

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    def problem(self, seed: int) -> Problem:
        """The task at place `seed mod N` of the fixed permutation, with sizes drawn from the seed."""
        place = self._order[checked_seed(seed) % len(self._order)]
        if self._source == "own":
            return Problem("triton_kernel", seed, self._own[place].drawn(Draws("triton_kernel", VERSION, seed)))
        return Problem("triton_kernel", seed, self._rows[place])

    def messages(self, problem: Problem) -> list[Message]:
        task: Task = problem.payload
        return [
            Message("system", KERNEL_SYSTEM),
            Message("user", f"Write `ModelNew` for this module.\n\n```python\n{task.source}```"),
        ]

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Judge an answer without a GPU; see `judging`.

        Raises:
            EnvironmentUnavailableError: there is no Triton, or no sandbox, on this machine.
        """
        judgement = self.judgement(problem, completion)
        return NO_CODE if judgement is None else judgement.grade()

    def own_checks(self) -> list[tuple[str, bool, str]]:
        """What `grail-envs check` asks beyond what every environment keeps: every task tells right answers from a constant.

        Raises:
            EnvironmentUnavailableError: nothing can be judged here.
        """
        tasks = {self.problem(seed).payload.name: seed for seed in reversed(range(8 * len(self._order)))}
        judgements = {name: Judgement(self.problem(seed).payload, "", seed) for name, seed in sorted(tasks.items())}
        found = {name: judgement.problem_of_task() for name, judgement in judgements.items()}
        broken = {name: problem for name, problem in found.items() if problem}
        told = "; ".join(broken.values())[:300] or f"{len(found)} tasks have right outputs that follow from their inputs"
        return [("references", not broken, told)]

    def judgement(self, problem: Problem, completion: str) -> Judgement | None:
        """The judgement of a completion, for whoever wants more of it than its grade; None where it holds no code."""
        code = code_of(completion)
        return None if code is None else Judgement(problem.payload, code, problem.seed)


def _texts(given: Any) -> tuple[str, ...]:
    """Names from a list, or from a text with commas.

    Raises:
        ConfigurationError: neither.
    """
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, tuple | list) or not all(isinstance(one, str) for one in parts):
        raise ConfigurationError("tasks are names", where="tasks", hint='tasks=relu,softmax or tasks=["relu"]')
    return tuple(one.strip() for one in parts if one.strip())
