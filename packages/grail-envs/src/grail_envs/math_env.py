r"""MATH: competition problems whose answer is a formula.

The answer is what stands between the last pair of answer tags, or in the last `\boxed{}` where there are no tags. It is
compared in a confined worker with a hard limit, exactly and by written rules (`sandbox.math_side`); nothing is evaluated as
Python. A row's gold is its `answer` field, or the last `\boxed{}` of its solution.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.answer_text import ANSWER_CLOSE, last_boxed, spoken, tagged_answer
from grail_envs.data_sets import Field, HubSource, load_rows, row_permutation, rows_digest
from grail_envs.draws import checked_seed
from grail_envs.reward_table import CORRECT_AND_FORMAT
from grail_envs.sandbox.jobs import Limits
from grail_envs.teaching import NUMBERS

VERSION: Final = 1
SUBJECTS: Final = (
    "Algebra",
    "Counting & Probability",
    "Geometry",
    "Intermediate Algebra",
    "Number Theory",
    "Prealgebra",
    "Precalculus",
)
LIMITS: Final = Limits(cpu_s=2.0, wall_s=6.0, memory_bytes=2 * 2**30)
MAX_ANSWER_CHARACTERS: Final = 512
HUB_CONFIGURATIONS: Final = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_SETS: Final = {
    "math500": (
        ("math/math500.jsonl", "math/math500.jsonl.gz"),
        HubSource("HuggingFaceH4/MATH-500", ("default",), "test", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
    ),
    "train": (
        ("math/train.jsonl", "math/train.jsonl.gz"),
        HubSource("EleutherAI/hendrycks_math", HUB_CONFIGURATIONS, "train", "21a5633873b6a120296cce3e2df9d5550074f4a3"),
    ),
    "test": (
        ("math/test.jsonl", "math/test.jsonl.gz"),
        HubSource("EleutherAI/hendrycks_math", HUB_CONFIGURATIONS, "test", "21a5633873b6a120296cce3e2df9d5550074f4a3"),
    ),
}
_FIELDS: Final = {"problem": Field.TEXT, "solution": Field.TEXT, "level": Field.ANY}
_SYSTEM: Final = (
    "Solve the problem step by step. End your reply with the final answer alone, as LaTeX between answer tags, in this form: "
    "<answer>\\frac{1}{2}</answer>"
)


@dataclass(frozen=True)
class MathPayload:
    """`row`: index among the rows kept; `gold`: the answer's LaTeX."""

    row: int
    question: str
    gold: str
    level: int
    subject: str


class MathEnvironment:
    """MATH problems.

    `split` is math500 (the small published test set), train or test; `levels` (1 to 5) and `subjects` keep a part of them
    (empty: all); `data_dir` is a folder that holds math/ (default: GRAIL_DATA_DIR, else the hub).

    Raises:
        ConfigurationError: an unknown split, level or subject, or a filter that keeps nothing.
        EnvironmentUnavailableError: the set is not there, is unreadable, or a row has no answer.
    """

    rewards = CORRECT_AND_FORMAT
    capabilities = Capabilities(data_folder=True, held_out={"split": "math500"}, teacher=lambda environment: NUMBERS)

    def __init__(
        self,
        split: str = "math500",
        levels: Sequence[int] = (),
        subjects: Sequence[str] = (),
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if split not in _SETS or not set(levels) <= {1, 2, 3, 4, 5} or not set(subjects) <= set(SUBJECTS):
            raise ConfigurationError(
                f"math has no such part: split {split!r}, levels {list(levels)}, subjects {list(subjects)}",
                where="split, levels, subjects",
                hint=f"split: {', '.join(_SETS)}; levels: 1 to 5; subjects: {', '.join(SUBJECTS)}",
            )
        files, hub = _SETS[split]
        rows, where = load_rows("MATH", data_dir=data_dir, local_files=files, hub=hub, fields=_FIELDS)
        loaded = [_payload(number, row, where) for number, row in enumerate(rows)]
        kept = [one for one in loaded if (not levels or one.level in levels) and (not subjects or one.subject in subjects)]
        if not kept:
            raise ConfigurationError("no MATH problem passes the filter", where=where, hint="ask for more levels or subjects")
        self._rows = kept
        self._order = row_permutation(f"math/{split}", len(kept))
        self._spec = EnvironmentSpec(
            env_id="math",
            version=VERSION,
            parameters={"split": split, "levels": sorted(set(levels)), "subjects": sorted(set(subjects))},
            data_digest=rows_digest([{"q": one.question, "a": one.gold} for one in kept], ("q", "a")),
        )

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    def __len__(self) -> int:
        """Number of distinct problems."""
        return len(self._rows)

    def problem(self, seed: int) -> Problem:
        """The row at place `seed mod N` of the fixed permutation of the rows that pass the filter."""
        return Problem("math", seed, self._rows[self._order[checked_seed(seed) % len(self._order)]])

    def messages(self, problem: Problem) -> list[Message]:
        payload: MathPayload = problem.payload
        return [Message("system", _SYSTEM), Message("user", payload.question)]

    def grade(self, problem: Problem, completion: str) -> Grade:
        payload: MathPayload = problem.payload
        answer = answer_of(completion)
        if answer is None:
            return self.rewards.graded({}, success=False, well_formed=False, detail="no answer tag and no \\boxed{}")
        return grade_formula(payload.gold, answer)


def answer_of(completion: str) -> str | None:
    r"""The formula of the last answer tag; where there is no tag, of the last `\boxed{}`."""
    text = spoken(completion)
    if ANSWER_CLOSE in text:
        return tagged_answer(completion, limit=MAX_ANSWER_CHARACTERS) or None
    return last_boxed(text, limit=MAX_ANSWER_CHARACTERS) or None


def grade_formula(gold: str, answer: str) -> Grade:
    """Compare two formulas in the confined worker."""
    from grail_envs.sandbox.pool import MATH, shared_pool

    ruling = shared_pool(MATH).ask({"gold": gold, "answer": answer}, LIMITS)
    if not ruling.conclusive:
        return CORRECT_AND_FORMAT.inconclusive(ruling.detail)
    readable = ruling.stage != "parse"
    return CORRECT_AND_FORMAT.graded(
        {"correct": float(ruling.passed), "format": float(readable)},
        success=ruling.passed,
        well_formed=readable,
        detail=f"{ruling.stage}: {ruling.detail}" if ruling.detail else ruling.stage,
        limit_share=ruling.limit_share,
    )


def _payload(number: int, row: dict[str, Any], where: str) -> MathPayload:
    written = row.get("answer") or last_boxed(row["solution"], limit=4096)
    gold = str(written) if type(written) in (str, int) else ""
    level = re.search(r"[1-5]", str(row["level"]))
    if not gold.strip() or level is None:
        raise EnvironmentUnavailableError(
            f"row {number} of the MATH data set has no answer or no level", where=where, hint="get the file again"
        )
    return MathPayload(number, row["problem"], gold, int(level[0]), str(row.get("subject") or row.get("type") or ""))
