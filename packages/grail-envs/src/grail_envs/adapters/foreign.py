"""An installed package of somebody else as an `Environment`: rows by a fixed permutation, rewards scaled into [0, 1].

The three forms (`verifiers`, `gymnasium`, `openenv`) differ in what their process makes of the package; here they are one.
Rewards have stated bounds: by the weights, each function being in [0, 1], or `lowest` and `highest` for the sum. A reward
outside of them, a judge that raises, and a limit that is run into are grades of 0, alike for everybody who judges that
text: nobody is paid for breaking a judge, and no honest miner fails for it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, GradeOutcome, Message, Problem
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.adapters.bounds import bounds_of
from grail_envs.adapters.foreign_kind import arguments_of, kind_of
from grail_envs.adapters.package import ForeignPackage
from grail_envs.answer_text import spoken
from grail_envs.data_sets import row_permutation
from grail_envs.draws import checked_seed
from grail_envs.sandbox.jobs import Limits
from grail_envs.sandbox.pool import GraderPool, shared_pool

VERSION: Final = 1
LIMITS: Final = Limits(cpu_s=8.0, wall_s=16.0, memory_bytes=4 * 2**30)
MAX_CHARACTERS: Final = 2**20
"""Of a completion that is handed to a judge; a longer one earns nothing."""

Number = str | int | float
"""A bound as a command line, a spec or a program says it; "" is none."""

_MAX_ROWS: Final = 200_000
_MAX_FUNCTIONS: Final = 256


@dataclass(frozen=True)
class ForeignRow:
    """`row`: its index in the package's own order; `messages`: the chat that asks it."""

    row: int
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Raw:
    """What a judgement said: the sum and each function's reward, or why there is none."""

    total: float = 0.0
    scores: Mapping[str, float] | None = None
    fault: str = ""


@dataclass(frozen=True)
class Told:
    """What a package's process says of what it loaded, read as a stranger's word. `weights` are hexadecimal floats."""

    digest: str
    count: int
    weights: Mapping[str, str]


_OWN_FAULTS: Final = {
    "NotAnActionError": "the answer is no action of the package's space (too long, or a character such as a newline that it "
    "does not hold), so no step was taken",
    "NoRewardError": "the step gave no reward",
    "NotOverError": "the step did not end the episode: only tasks that are over after one step are adapted",
    "ShownOtherwiseError": "a reset with the same seed showed another text than when it was loaded",
}
"""What our side of the package's process raises itself (`stepped_side`)."""


class ForeignEnvironment:
    """What all adapters share. A subclass gives the form, its own parameters, and what its process needs for them."""

    form: ClassVar[str]
    capabilities = Capabilities(data_folder=True)

    def __init__(
        self,
        package: ForeignPackage,
        own: Mapping[str, Any],
        *,
        arguments: Mapping[str, Any] | str,
        most_rows: int,
        lowest: Number,
        highest: Number,
        success_at: Number,
        thinking: str,
        data_dir: str | os.PathLike[str] | None,
    ) -> None:
        if thinking not in ("left out", "kept"):
            raise ConfigurationError(f"thinking is {thinking!r}", where="thinking", hint="`left out` or `kept`")
        if type(most_rows) is not int or not 0 <= most_rows <= _MAX_ROWS:
            raise ConfigurationError(f"most_rows is {most_rows!r}", where="most_rows", hint="a whole number; 0 for all")
        given = arguments_of(arguments)
        self._keeps_thinking = thinking == "kept"
        self.package = package
        self._kind = kind_of(self.form, package, own, given, most_rows, data_dir)
        pool = self.pool()
        told = _told(pool)
        self.bounds = bounds_of(told.weights, lowest, highest, success_at)
        self._weights = {name: float.fromhex(weight) for name, weight in told.weights.items()}
        self._rows = _rows(pool, told.count)
        self._order = row_permutation(f"{self.form}/{package.name}", len(self._rows))
        self._spec = EnvironmentSpec(
            env_id=self.form,
            version=VERSION,
            parameters={
                **package.parameters(),
                **own,
                "arguments": json.dumps(given, sort_keys=True),
                "most_rows": most_rows,
                "lowest": "" if self.bounds.each_in_unit else str(self.bounds.lowest),
                "highest": "" if self.bounds.each_in_unit else str(self.bounds.highest),
                "success_at": str(self.bounds.success_at),
                "thinking": thinking,
            },
            data_digest=told.digest,
        )

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    def __len__(self) -> int:
        """Number of distinct problems."""
        return len(self._rows)

    def pool(self, hash_seed: int = 0, world: int = 0) -> GraderPool:
        """The processes that hold the package; others, with another hash seed or loaded in another world, for who checks it."""
        if hash_seed == 0 and world == 0:
            return shared_pool(self._kind)
        options = json.dumps(json.loads(self._kind.foreign) | {"world": world}, sort_keys=True)
        name = f"{self._kind.name}/{hash_seed}/{world}"
        kind = dataclasses.replace(self._kind, name=name, hash_seed=hash_seed, foreign=options)
        return GraderPool(shared_pool(self._kind).mode, shared_pool(self._kind).backend, lanes=1, kind=kind)

    def problem(self, seed: int) -> Problem:
        """The row at place `seed mod N` of the fixed permutation.

        Raises:
            ValueError: a seed outside 0 … 2⁶⁴ − 1.
        """
        return Problem(self.form, seed, self._rows[self._order[checked_seed(seed) % len(self._order)]])

    def messages(self, problem: Problem) -> list[Message]:
        row: ForeignRow = problem.payload
        return list(row.messages)

    def grade(self, problem: Problem, completion: str) -> Grade:
        row: ForeignRow = problem.payload
        text = self.judged_text(completion)
        if len(text) > MAX_CHARACTERS:
            return self._failed(f"more than {MAX_CHARACTERS} characters")
        ruling = self.pool().ask_foreign(asked(row.row, text), LIMITS)
        if not ruling.conclusive:
            return Grade(0.0, False, False, outcome=GradeOutcome.INCONCLUSIVE, detail=ruling.detail)
        if not ruling.passed:
            return self._failed(f"{ruling.stage}: {ruling.detail}", ruling.limit_share)
        return self.graded(said(ruling.output)[0], well_formed=bool(text.strip()), limit_share=ruling.limit_share)

    def judged_text(self, completion: str) -> str:
        """What of a completion the package's judge is shown."""
        return completion if self._keeps_thinking else spoken(completion)

    def graded(self, raw: Raw, *, well_formed: bool, limit_share: float = 0.0) -> Grade:
        """A judgement as a grade."""
        if raw.fault == "MemoryError":  # this machine's memory, or the limit: no claim is proved false by it
            limit_share = max(limit_share, 1.0)
        if raw.fault in _OWN_FAULTS:
            return self._failed(_OWN_FAULTS[raw.fault], limit_share)
        if raw.fault or raw.scores is None:
            return self._failed(f"the package's judge raised {raw.fault}", limit_share)
        paid = [name for name, weight in self._weights.items() if weight]
        if not all(name in raw.scores for name in paid):
            return self._failed("a reward function that said nothing", limit_share)
        outside = [name for name in paid if not 0.0 <= raw.scores[name] <= 1.0]
        share = self.bounds.scaled(raw.total)
        if share is None or (outside and self.bounds.each_in_unit):
            low, high = self.bounds.lowest, self.bounds.highest
            one = f", {outside[0][:40]} {raw.scores[outside[0]]:g}" if outside else ""
            told = f"a reward outside of its bounds: {raw.total:g}{one}, of {low} to {high} (lowest, highest)"
            return self._failed(told, limit_share)
        components = {name: score for name, score in raw.scores.items() if math.isfinite(score)}
        success = self.bounds.is_success(share)
        return Grade(share, success, well_formed, components, limit_share=limit_share)

    def _failed(self, detail: str, limit_share: float = 0.0) -> Grade:
        return Grade(0.0, success=False, well_formed=False, detail=detail, limit_share=limit_share)


def asked(row: int, text: str, *, times: int = 1, world: int = 0) -> dict[str, Any]:
    """The question to a package's process: judge a text, `times` in a row, with the clock and randomness of a `world`."""
    return {"ask": "judge", "row": row, "text": text, "times": times, "world": world}


def said(output: str) -> list[Raw]:
    """What a package's process said, read as what a stranger says. What cannot be read is a fault."""
    try:
        found = json.loads(output)
        raws = []
        for one in found:
            if "fault" in one:
                raws.append(Raw(fault=str(one["fault"])[:80]))
            else:
                scores = {str(name): float.fromhex(value) for name, value in one["scores"].items()}
                full = len(scores) <= 2 * _MAX_FUNCTIONS  # those of weight 0 beside
                raws.append(Raw(float.fromhex(one["total"]), scores) if full else Raw(fault="too many rewards"))
        return raws or [Raw(fault="nothing")]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return [Raw(fault="no judgement")]


def _told(pool: GraderPool) -> Told:
    """Raises:
    EnvironmentUnavailableError: it says something else than it may.
    """
    said = pool.told or {}
    try:
        weights = {str(name): str(weight) for name, weight in said["weights"].items()}
        if all(math.isfinite(float.fromhex(weight)) and abs(float.fromhex(weight)) < 1e9 for weight in weights.values()):
            told = Told(str(said["digest"])[:64], int(said["count"]), weights)
            if 0 < told.count <= _MAX_ROWS and len(weights) <= _MAX_FUNCTIONS:
                return told
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        pass
    raise EnvironmentUnavailableError(
        "it says nothing of its rows and weights that can be read",
        where=pool.kind.name,
        hint=f"at most {_MAX_FUNCTIONS} reward functions, whose weights are numbers below 10⁹",
    )


def _rows(pool: GraderPool, count: int) -> list[ForeignRow]:
    rows: list[ForeignRow] = []
    while len(rows) < count:
        ruling = pool.ask_foreign({"ask": "rows", "first": len(rows)}, LIMITS)
        part = _part(ruling.output) if ruling.passed else []
        if not part or len(rows) + len(part) > count:
            raise EnvironmentUnavailableError(
                f"its rows cannot be read: {ruling.detail or ruling.stage}",
                where=pool.kind.name,
                hint="look at memory and processes, then try again",
            )
        rows += [ForeignRow(len(rows) + number, messages) for number, messages in enumerate(part)]
    return rows


def _part(output: str) -> list[tuple[Message, ...]]:
    """Some rows as the package's process says them; nothing, if they are none."""
    try:
        rows = [json.loads(raw) for raw in json.loads(output)]
        return [tuple(Message(str(one["role"]), str(one["content"])) for one in row) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
