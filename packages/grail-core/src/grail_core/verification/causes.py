"""Findings in words: what a check saw, how far beyond its bound it was, and what that is typical of.

A finding says what was measured; why it is so, nobody but the miner knows. So a cause has a certainty, and where several fit
they are named, the likeliest first. `grail-validator explain` and `grail-miner check` say the same words. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.files.evidence import MinerEvidence
from grail_core.proof.absolute import MARGIN_SCALE
from grail_core.protocol import Finding, Outcome
from grail_core.protocol.reading import Json
from grail_core.verification.model_causes import (
    TOKEN_STATISTICS,
    Cause,
    Certainty,
    Number,
    Numbers,
    logprob_causes,
    proof_causes,
    sampling_causes,
    undecided_causes,
)
from grail_core.verification.model_checks import NOT_ENFORCED

_LOGARITHMS: Final = ("sketch_ratio", "logprob_ratio", "bit_equal")
"""Statistics that are logarithms of a ratio: so many times their bound says nothing."""


@dataclass(frozen=True)
class Read:
    """A finding taken apart. `statistic` is the name in front of its detail, "" where the check has but one."""

    finding: Finding
    statistic: str

    @property
    def rejects(self) -> bool:
        return self.finding.outcome is Outcome.REJECT

    @property
    def enforced(self) -> bool:
        return not self.finding.detail.endswith(NOT_ENFORCED)

    @property
    def value(self) -> float | None:
        return _number(self.finding.value)

    @property
    def margin(self) -> float | None:
        """How many times its bound the value is; below 1 it lies within. None where that says nothing."""
        value, threshold = self.value, _number(self.finding.threshold)
        return None if value is None or not threshold or self.statistic in _LOGARITHMS else value / threshold

    @property
    def times(self) -> float | None:
        """`margin` as it is told: of a check that measures a distance from its bound. Of counts and rewards it says nothing."""
        margin = self.margin if self.finding.check in _MEASURED else None
        return None if margin is None or not margin >= 0 else margin

    @property
    def detail(self) -> str:
        """What is behind the statistic's name."""
        detail = self.finding.detail.removesuffix(NOT_ENFORCED)
        return detail.removeprefix(f"{self.statistic}: ") if self.statistic else detail

    @property
    def line(self) -> str:
        """Check, value, threshold and margin, for a person."""
        finding = self.finding
        text = f"{finding.check} {self.statistic}".rstrip() + f": {finding.outcome.value}"
        if finding.value is not None:
            text += f", {_short(finding.value)}"
        if finding.threshold is not None:
            text += f" (threshold {_short(finding.threshold)}"
            text += ")" if self.times is None else f", {self.times:.2g} times)"
        if finding.group is not None:
            text += f", group {finding.group}" + ("" if finding.rollout is None else f" rollout {finding.rollout}")
        return text if self.enforced else text + ", reported and not enforced"


_MEASURED: Final = ("proof", "logprob", "sampling")


def read(finding: Finding) -> Read:
    name, colon, _ = finding.detail.partition(": ")
    named = bool(colon) and finding.check in _MEASURED and (" " not in name or name in TOKEN_STATISTICS)
    return Read(finding, name if named else "")


def causes_of(findings: Sequence[Finding]) -> list[Cause]:
    """Why a file or seal with these findings was rejected, or why nothing was decided of it; () of one that was accepted."""
    rejects = [one for one in map(read, findings) if one.rejects]
    if not rejects:
        return undecided_causes([one.detail for one in findings if one.outcome is Outcome.INCONCLUSIVE])
    check = rejects[0].finding.check
    return _OF_CHECK.get(check, _unknown)([one for one in rejects if one.finding.check == check])


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """All of it for a person: every finding with its numbers, then the likely cause and what to try."""
    lines = [f"{'!' if one.rejects else ' '} {one.line}: {one.detail}".rstrip(": ") for one in map(read, findings)]
    for cause in causes_of(findings):
        lines.append(f"  cause: {cause}")
        if cause.advice:
            lines.append(f"  try: {cause.advice}")
    return lines


def lost_draws(evidence: MinerEvidence) -> str:
    """How many opened positions clearly lost the seeded draw, and how many the validator's own numerics would have lost."""
    margins = np.concatenate([np.zeros(0, np.float32), *(one.margin for one in evidence.rollouts)])
    told = f"{_lost(margins)} of {len(margins)} opened positions lose the seeded draw by {MARGIN_SCALE:g} or more"
    references = [one.reference for one in evidence.rollouts if one.reference is not None and one.reference.finite]
    if not references:
        return told
    claimed, twins = (np.concatenate([getattr(one, name) for one in references]) for name in ("margins", "twins"))
    return f"{told}; judged in float32 {_lost(claimed)}, where the validator's own draw loses {_lost(twins)}"


def _lost(margins: npt.NDArray[np.float32]) -> int:
    return int((~(margins < MARGIN_SCALE)).sum())  # what is no number is lost


def told_of(findings: Sequence[Finding]) -> dict[str, Json]:
    """The same for a program: findings with statistic, margin (decimal text) and whether they are enforced, and causes."""
    told: list[Json] = []
    for one in map(read, findings):
        margin = None if one.margin is None else f"{one.margin:.4g}"
        beside: dict[str, Json] = {"statistic": one.statistic, "enforced": one.enforced, "margin": margin}
        told.append({**one.finding.to_json(), **beside})
    return {"findings": told, "causes": [cause.to_json() for cause in causes_of(findings)]}


def _unknown(rejects: Sequence[Read]) -> list[Cause]:
    return [Cause(rejects[0].finding.detail or f"check {rejects[0].finding.check} rejects", Certainty.CERTAIN)]


def _file(rejects: Sequence[Read]) -> list[Cause]:
    detail = rejects[0].finding.detail
    for words, cause in _FILE:
        if words in detail:
            return [cause]
    return [
        Cause(
            f"the bytes are no file of this miner and window: {detail}",
            Certainty.CERTAIN,
            advice="pack with this version, and upload the very bytes that were packed",
        )
    ]


_OTHER_PACKING: Final = Cause(
    "file and seal are of two different packings",
    Certainty.CERTAIN,
    ("a file that was packed again, or damaged, after its seal",),
    "seal the bytes that are stored, file first, seal last",
)

_FILE: Final = (
    (
        "could not be had",
        Cause(
            "the sealed bytes could not be read from its bucket after the draw",
            Certainty.CERTAIN,
            (
                "a file that was deleted, replaced or never uploaded",
                "a read key that was revoked, or a store that did not answer",
            ),
            "keep the file readable and unchanged until the void block; try `grail storage doctor`",
        ),
    ),
    ("not the one that was sealed", _OTHER_PACKING),
    (
        "Merkle root",
        Cause(
            "the rows are not those that the header was signed for",
            Certainty.CERTAIN,
            ("rows that were changed after packing",),
            "pack again",
        ),
    ),
    (
        "wrong block hash",
        Cause(
            "it was made for another block T than the finalised one",
            Certainty.CERTAIN,
            ("work on a block that was reorganised away",),
            "start again when the finalised hash differs",
        ),
    ),
    (
        "wrong checkpoint",
        Cause(
            "it was made with another checkpoint than the window's",
            Certainty.CERTAIN,
            ("a miner that did not sync in time",),
            "see which checkpoint is in force: `grail checkpoint show`",
        ),
    ),
    (
        "wrong hotkey",
        Cause("it is another hotkey's file", Certainty.CERTAIN, ("a copied file",)),
    ),
    (
        "wrong environment",
        Cause(
            "it was made with another environment than the window's",
            Certainty.CERTAIN,
            ("another version of grail-envs, or other data",),
            "upgrade grail-envs; check GRAIL_DATA_DIR",
        ),
    ),
)


def _seal(rejects: Sequence[Read]) -> list[Cause]:
    finding = rejects[0].finding
    if "groups are missing" in finding.detail:
        return [
            Cause(
                f"{finding.value} groups were left out, {finding.threshold} may be",
                Certainty.CERTAIN,
                ("choosing among the assigned problems", "many groups that could not be generated or proved"),
                "take problems in the order assigned; the log says why groups were dropped",
            )
        ]
    if "of other bytes" in finding.detail:
        return [_OTHER_PACKING]
    if "class" in finding.detail:
        return [
            Cause(
                f"the numerics class {finding.value} cannot be used here: {finding.detail}",
                Certainty.CERTAIN,
                advice="prove and generate in a class that the network admits, and keep it for 36 windows",
            )
        ]
    return [
        Cause(
            f"the seal was refused: {finding.detail}",
            Certainty.CERTAIN,
            advice="every field must be this hotkey's and this window's; seal again",
        )
    ]


def _schema(rejects: Sequence[Read]) -> list[Cause]:
    return [
        Cause(
            f"rows are malformed: {rejects[0].finding.detail}",
            Certainty.CERTAIN,
            ("a packer or an engine that is not this project's",),
            "compare the rows with section 8 of the protocol",
        )
    ]


def _prompt(rejects: Sequence[Read]) -> list[Cause]:
    lengths = sum("tokens, the assigned one" in one.finding.detail for one in rejects)
    problems = ("a file whose problems are another hotkey's or window's (a copy)", "another version or data of the environment")
    template = ("another chat template, thinking mode or tokenizer",)
    same_place = len({one.finding.detail for one in rejects}) == 1 and not lengths
    return [
        Cause(
            "prompts are not those assigned to this hotkey in this window",
            Certainty.CERTAIN,
            (*template, *problems) if same_place else (*problems, *template),
            "problems follow from window, hotkey and group; render them with the checkpoint's own files",
        )
    ]


def _termination(rejects: Sequence[Read]) -> list[Cause]:
    return [
        Cause(
            f"completions do not end as the policy says: {rejects[0].finding.detail}",
            Certainty.CERTAIN,
            ("an engine limit below the policy's, a stop text, or tokens that were cut off or put in afterwards",),
            "generate to an end token or the limit, with no other stop",
        )
    ]


def _reward(rejects: Sequence[Read]) -> list[Cause]:
    higher = sum((one.value or 0) > (_number(one.finding.threshold) or 0) for one in rejects)
    typical = "rewards that were raised" if higher == len(rejects) else "another version or data of the environment"
    other = "another version or data of the environment" if higher == len(rejects) else "rewards that were made up"
    return [
        Cause(
            f"claimed rewards are not what the environment gives, three times alike: {rejects[0].finding.detail}",
            Certainty.CERTAIN,
            (typical, other),
            "grade the text that is decoded from the very tokens, with the network's environment",
        )
    ]


def _numbers(rejects: Sequence[Read]) -> Numbers:
    return {one.statistic: Number(one.value, _number(one.finding.threshold)) for one in rejects}


_OF_CHECK: Final[dict[str, Callable[[Sequence[Read]], list[Cause]]]] = {
    "file": _file,
    "seal": _seal,
    "schema": _schema,
    "prompt": _prompt,
    "termination": _termination,
    "reward": _reward,
    "proof": lambda rejects: proof_causes(_numbers(rejects)),
    "logprob": lambda rejects: logprob_causes(_numbers(rejects)),
    "sampling": lambda rejects: sampling_causes(_numbers(rejects)),
}


def _number(value: str | int | None) -> float | None:
    if isinstance(value, int):
        return float(value)
    try:
        return None if value is None else float(value)
    except ValueError:
        return None  # a name or a digest


def _short(value: str | int | None) -> str:
    number = _number(value)
    if isinstance(value, int) or number is None:
        return str(value)[:64]
    return f"{number:.4g}"


__all__ = ["Cause", "Certainty", "Read", "causes_of", "lines_of", "lost_draws", "read", "told_of"]
