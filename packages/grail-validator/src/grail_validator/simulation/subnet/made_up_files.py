"""Window files that say of themselves what is wrong with them, and the examination that finds it where the protocol looks.

Such a file has real bytes, a real digest and real counts; its rollouts are names. What proofs see is not asked here: a rollout
of a junk group that the real sample of the real challenge seed touches rejects the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache

from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import MachineFaultError
from grail_core.files.evidence import MinerEvidence
from grail_core.protocol import sample_rollouts
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM, WINDOW_LENGTH
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, Sampling
from grail_core.verification.uniqueness import counted_once
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import accept, reject


@dataclass(frozen=True)
class MadeUpFile:
    """What stands in such a file.

    Group ids go from `gaps` on; the first `junk` are junk, the last `equal` repeat the first ones of the window before.
    """

    hotkey: str
    window: int
    groups: int
    gaps: int = 0
    junk: int = 0
    equal: int = 0
    readable: bool = True

    def encode(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> MadeUpFile:
        return cls(**json.loads(data))

    @property
    def ids(self) -> range:
        return range(self.gaps, self.gaps + self.groups)

    def is_seen_with(self, challenge_seed: Digest) -> bool:
        """Does the protocol's sample with this seed look at a junk group?"""
        return self.junk > 0 and _is_seen(self, challenge_seed)

    def identities(self) -> tuple[Digest, ...]:
        """One per rollout, in file order."""
        return _identities(self)


@lru_cache(maxsize=512)
def _is_seen(file: MadeUpFile, challenge_seed: Digest) -> bool:
    sample, first_honest = sample_rollouts(challenge_seed, file.ids), file.gaps + file.junk
    return any(group < first_honest for group in (*sample.whole_groups, *(group for group, _ in sample.singles)))


@lru_cache(maxsize=512)
def _identities(file: MadeUpFile) -> tuple[Digest, ...]:
    found = []
    for place, group in enumerate(file.ids):
        window, first_equal = file.window, file.groups - file.equal
        if place >= first_equal:  # the first groups of the window before
            window, group = file.window - WINDOW_LENGTH, file.ids[place - first_equal]
        words = hashlib.shake_256(f"{file.hotkey}/{window}/{group}".encode()).digest(32 * ROLLOUTS_PER_PROBLEM)
        found += [Digest(words[at : at + 32]) for at in range(0, len(words), 32)]
    return tuple(found)


@dataclass(frozen=True)
class Seed(Sampling):
    """What `Means.sampling` gives here: the challenge seed and nothing to measure with."""

    challenge_seed: Digest
    probability: Fraction

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        raise NotImplementedError("nothing is measured in a simulation")

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        raise NotImplementedError("nothing is measured in a simulation")


@dataclass(frozen=True)
class Examiner:
    """Stands for `verification.examine` of one validator; `broken` are hotkeys for whose files it lacks a worker."""

    broken: Collection[Hotkey]

    def __call__(self, file: bytes, context: CheckContext, sampling: Sampling, *, content_digest: Digest) -> Examination:
        assert isinstance(sampling, Seed)
        if context.hotkey in self.broken:
            raise MachineFaultError("a worker was lost")
        if hashlib.sha256(file).digest() != content_digest:
            raise AssertionError("these are not the sealed bytes")
        made_up = MadeUpFile.decode(file)
        if not made_up.readable:
            return Examination((reject("file", detail="not a window file"),))
        if made_up.is_seen_with(sampling.challenge_seed):
            return Examination((accept("file"), reject("sampling", detail="draws do not follow the assigned seeds")))
        identities = tuple(counted_once(made_up.identities(), context.history))
        return Examination((accept("file"), accept("unique", value=len(identities)), accept("sampling")), None, identities)


class NoEnvironment:
    """Names itself; nobody asks it for a problem."""

    spec = EnvironmentSpec("made-up", 1)

    def problem(self, seed: int) -> Problem:
        raise NotImplementedError("a simulation has no problems")

    def messages(self, problem: Problem) -> list[Message]:
        raise NotImplementedError("a simulation has no problems")

    def grade(self, problem: Problem, completion: str) -> Grade:
        raise NotImplementedError("a simulation has no problems")


class NoRenderer:
    """Nobody asks it for a prompt."""

    def render(self, messages: list[Message]) -> tuple[int, ...]:
        raise NotImplementedError("a simulation has no prompts")

    def decode_completion(self, tokens: list[int], asked: Sequence[Message] = ()) -> str:
        raise NotImplementedError("a simulation has no completions")
