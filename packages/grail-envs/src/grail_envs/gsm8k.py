"""GSM8K: grade-school word problems with one number as the answer.

The gold is the number after the last `####` of a row. An answer is the one number between the last pair of answer tags,
compared as an exact rational, so every notation of the same number counts and nothing near it does. Which rows are used
is bound by their digest in the spec; where they lie on this machine is not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.answer_text import tagged_answer
from grail_envs.data_sets import Field, HubSource, load_rows, row_permutation, rows_digest
from grail_envs.draws import checked_seed
from grail_envs.exact_numbers import WrittenNumber, read_number
from grail_envs.reward_table import CORRECT_AND_FORMAT
from grail_envs.teaching import NUMBERS

VERSION: Final = 1
SPLITS: Final = {"train": ("gsm8k/train.jsonl.gz", "gsm8k/train.jsonl"), "test": ("gsm8k/test.jsonl", "gsm8k/test.jsonl.gz")}
HUB_REPOSITORY: Final = "openai/gsm8k"
HUB_REVISION: Final = "740312add88f781978c0658806c59bc2815b9866"

_FIELDS: Final = {"question": Field.TEXT, "answer": Field.TEXT}
_MAX_ANSWER_CHARACTERS: Final = 256
_SYSTEM: Final = (
    "Solve the problem step by step. End your reply with the final number alone between answer tags, without units, "
    "in this form: <answer>42</answer>"
)


@dataclass(frozen=True)
class Gsm8kPayload:
    """`row`: index in the file; `gold`: the answer as written in it."""

    row: int
    question: str
    gold: WrittenNumber


class Gsm8kEnvironment:
    """GSM8K word problems.

    `split` is train or test; `data_dir` is a folder that holds gsm8k/ (default: GRAIL_DATA_DIR, else the hub).

    Raises:
        ConfigurationError: an unknown split.
        EnvironmentUnavailableError: the set is not there, is unreadable, or a row has no number.
    """

    rewards = CORRECT_AND_FORMAT
    capabilities = Capabilities(data_folder=True, held_out={"split": "test"}, teacher=lambda environment: NUMBERS)

    def __init__(self, split: str = "train", data_dir: str | os.PathLike[str] | None = None) -> None:
        if split not in SPLITS:
            raise ConfigurationError(f"gsm8k has no split {split!r}", where="split", hint="use train or test")
        hub = HubSource(HUB_REPOSITORY, ("main",), split, HUB_REVISION)
        rows, where = load_rows("GSM8K", data_dir=data_dir, local_files=SPLITS[split], hub=hub, fields=_FIELDS)
        self._rows = [
            Gsm8kPayload(number, row["question"], _gold(row["answer"], number, where)) for number, row in enumerate(rows)
        ]
        self._order = row_permutation("gsm8k", len(self._rows))
        self._spec = EnvironmentSpec(
            env_id="gsm8k",
            version=VERSION,
            parameters={"split": split},
            data_digest=rows_digest(rows, _FIELDS),
        )

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    def __len__(self) -> int:
        """Number of distinct problems."""
        return len(self._rows)

    def problem(self, seed: int) -> Problem:
        """The row at place `seed mod N` of the fixed permutation.

        Raises:
            ValueError: a seed outside 0 … 2⁶⁴ − 1.
        """
        return Problem("gsm8k", seed, self._rows[self._order[checked_seed(seed) % len(self._order)]])

    def messages(self, problem: Problem) -> list[Message]:
        payload: Gsm8kPayload = problem.payload
        return [Message("system", _SYSTEM), Message("user", payload.question)]

    def grade(self, problem: Problem, completion: str) -> Grade:
        payload: Gsm8kPayload = problem.payload
        answer = tagged_answer(completion, limit=_MAX_ANSWER_CHARACTERS)
        if answer is None:
            return self.rewards.graded({}, success=False, well_formed=False, detail="no answer tag")
        number = read_number(answer)
        if number is None:
            return self.rewards.graded({}, success=False, well_formed=False, detail="the answer is not one number")
        right = number.equals(payload.gold)
        detail = "equal to the gold" if right else f"{_shown(number)} is not {_shown(payload.gold)}"
        return self.rewards.graded({"correct": float(right), "format": 1.0}, success=right, well_formed=True, detail=detail)


def _gold(answer: str, number: int, where: str) -> WrittenNumber:
    _, mark, text = answer.rpartition("####")
    gold = read_number(text) if mark else None
    if gold is None:
        raise EnvironmentUnavailableError(
            f"row {number} of the GSM8K data set has no number after ####", where=where, hint="get the file again"
        )
    return gold


def _shown(number: WrittenNumber) -> str:
    return f"{number.value}%" if number.percent else f"{number.value}"
