"""Findings of gradient work in words: what a check saw, what that is typical of, and what to try next.

As for rollouts (`verification.causes`) a finding says what was measured, and why it is so nobody but the miner knows: causes
have a certainty. `grail-validator explain` says these words to whoever asks about a round. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.reading import Json
from grail_core.verification.model_causes import Cause, Certainty
from grail_core.verification.model_checks import NOT_ENFORCED

_CERTAIN, _LIKELY, _POSSIBLE = Certainty.CERTAIN, Certainty.LIKELY, Certainty.POSSIBLE
_SYNC: Final = "see which checkpoint is in force: `grail checkpoint show`; the round's is the one valid at its first block"
_OWN_STATE: Final = "leave the miner's state folder to one process on one machine, and start it again without sealing anew"


@dataclass(frozen=True)
class _Known:
    """A cause for findings of one check whose detail has these words; "" are all that are left."""

    check: str
    words: str
    cause: Cause


_KNOWN: Final = (
    _Known(
        "seal",
        "wrong round",
        Cause("the seal is of another round", _CERTAIN, ("a seal left over from a round before",), _OWN_STATE),
    ),
    _Known(
        "seal",
        "wrong block hash",
        Cause(
            "it was made for another block T than the finalised one",
            _CERTAIN,
            ("work on a block that was reorganised away",),
            "start again when the finalised hash differs",
        ),
    ),
    _Known(
        "seal",
        "larger than any update",
        Cause("it promises a file that no update can be", _CERTAIN, ("another layout or spec",), _SYNC),
    ),
    _Known("seal", "", Cause("the seal is none of this round's", _CERTAIN, advice="seal with this version of the software")),
    _Known(
        "file",
        "after it was due",
        Cause(
            "the update came after block V",
            _CERTAIN,
            ("an upload that is slower than the round leaves time for",),
            "upload when the sight of seals is over; measure the line, or mine where rounds are longer",
        ),
    ),
    _Known(
        "file",
        "other bytes than",
        Cause(
            "file and seal are of two different packings",
            _CERTAIN,
            ("a file that was made again after its seal", "a damaged upload"),
            _OWN_STATE,
        ),
    ),
    _Known(
        "file",
        "not in its bucket",
        Cause(
            "the update that was sealed was not shown",
            _CERTAIN,
            ("a miner that was stopped between seal and reveal", "a bucket or read key that is gone"),
            "keep the miner running until block V; try `grail storage doctor`",
        ),
    ),
    _Known(
        "file",
        "could not be read",
        Cause(
            "the update could not be read in its time",
            _LIKELY,
            ("a store that did not answer", "a read key that was revoked"),
            "try `grail storage doctor`",
        ),
    ),
    _Known(
        "file",
        "wrong checkpoint digest",
        Cause("it trained another checkpoint than the round's", _CERTAIN, ("a miner that did not sync in time",), _SYNC),
    ),
    _Known(
        "file",
        "wrong environment digest",
        Cause("it was made under another spec than the round's", _CERTAIN, ("a miner that did not sync in time",), _SYNC),
    ),
    _Known(
        "file",
        "the steps end elsewhere",
        Cause(
            "the committed path of inner steps does not lead to the weights that the file says it ends in",
            _CERTAIN,
            ("a path that belongs to other training",),
            "commit to the states of the very run whose difference is sent",
        ),
    ),
    _Known("file", "", Cause("the file is not what its seal and this round ask", _CERTAIN, advice="pack with this version")),
    _Known(
        "layout",
        "",
        Cause(
            "the streams are no update of this checkpoint",
            _CERTAIN,
            ("another codec or layout than the checkpoint's", "an upload that was damaged before it was sealed"),
            "compress with the round's own spec and layout",
        ),
    ),
    _Known(
        "feedback",
        "",
        Cause(
            "the feedback that went in is not what this hotkey's last file left",
            _CERTAIN,
            ("a state folder brought back from a copy", "two machines with one hotkey"),
            "begin anew without feedback, which is always allowed; leave a hotkey to one machine",
        ),
    ),
    _Known(
        "chunks",
        "opening came after",
        Cause(
            "the opening came after block V",
            _CERTAIN,
            ("a miner that saw the challenge late, or a slow upload",),
            "keep clock, beacon and chain at hand until block V",
        ),
    ),
    _Known(
        "chunks",
        "opening is not in",
        Cause(
            "what the challenge asked for was not opened",
            _CERTAIN,
            ("a miner that was stopped after its seal", "inner states that were not kept"),
            "keep the miner and its state until block V",
        ),
    ),
    _Known(
        "chunks",
        "",
        Cause(
            "on a drawn chunk, what was sent, opened or left is not what follows from the committed numbers",
            _LIKELY,
            ("values that were not taken from the training", "compression by other code, or with another rounding"),
            "send what `grail_core.gradient` makes of Δ and feedback, in float32",
        ),
    ),
    _Known(
        "proof",
        "coarse_error",
        Cause(
            "its sketches are of other hidden states than these sequences have in this checkpoint",
            _LIKELY,
            ("other sequences than the assigned ones", "a checkpoint of some rounds before", "sketches that nobody computed"),
            _SYNC,
        ),
    ),
    _Known(
        "proof",
        "previous-",
        Cause(
            "its sketches are those of an earlier checkpoint",
            _LIKELY,
            ("a miner that did not sync in time",),
            _SYNC,
        ),
    ),
    _Known(
        "proof",
        "",
        Cause(
            "its sketches are further from the float32 copy than honest ones of this class",
            _POSSIBLE,
            ("a checkpoint of a few steps before", "rounded weights", "another numerics class than its header names"),
            "sketch with the bf16 cast of the round's weights, in the class that the header names",
        ),
    ),
    _Known(
        "replay",
        "gradient",
        Cause(
            "the drawn step is not taken on its assigned sequences, or not on all of them, or not from the committed weights",
            _LIKELY,
            (
                "other data, or fewer sequences than declared",
                "states of steps that were never taken",
                "another loss, clip or precision than the spec's",
            ),
            "train every step on the whole assigned batch with `grail_core.proof.inner`",
        ),
    ),
    _Known(
        "replay",
        "moments",
        Cause("the moments before the first step are not zero", _CERTAIN, ("an optimiser kept over rounds",), "reset it"),
    ),
    _Known(
        "replay",
        "",
        Cause(
            "the state after the drawn step does not follow from the committed one and its gradient",
            _CERTAIN,
            ("another optimiser, learning rate or decay than the spec's", "states that were made up"),
            "train with `grail_core.proof.inner`",
        ),
    ),
)

_STATISTICS: Final = ("proof", "replay")


@dataclass(frozen=True)
class ReadFinding:
    """A finding of a round taken apart. `statistic` is the name in front of its detail, "" where the check has but one."""

    finding: Finding
    statistic: str

    @property
    def rejects(self) -> bool:
        return self.finding.outcome is Outcome.REJECT

    @property
    def enforced(self) -> bool:
        return not self.finding.detail.endswith(NOT_ENFORCED)

    @property
    def line(self) -> str:
        """Check, value and bound, for a person."""
        finding = self.finding
        text = f"{finding.check} {self.statistic}".rstrip() + f": {finding.outcome.value}"
        if finding.value is not None:
            text += f", {_short(finding.value)}"
        if finding.threshold is not None:
            text += f" (bound {_short(finding.threshold)})"
        if not self.enforced:
            text += ", reported and not enforced"
        detail = finding.detail.removesuffix(NOT_ENFORCED)
        return f"{text}: {detail}" if detail else text


def read_finding(finding: Finding) -> ReadFinding:
    if finding.check not in _STATISTICS:
        return ReadFinding(finding, "")
    name = finding.detail.partition(": ")[0].rpartition(", ")[2]  # "step 2, gradient: …"
    return ReadFinding(finding, name if name and " " not in name else "")


def round_causes(findings: Sequence[Finding]) -> list[Cause]:
    """Why a seal or file with these findings was rejected, or why nothing was decided of it; empty where neither is so."""
    rejects = [read_finding(one) for one in findings if one.outcome is Outcome.REJECT]
    if not rejects:
        return [_undecided(one) for one in findings if one.outcome is Outcome.INCONCLUSIVE][:1]
    check = rejects[0].finding.check
    found: list[Cause] = []
    for one in rejects:
        if one.finding.check == check and (cause := _cause(one)) not in found:
            found.append(cause)
    return found[:2]


def round_lines(findings: Sequence[Finding]) -> list[str]:
    """All of it for a person: every finding with its numbers, then the likely cause and what to try."""
    lines = [f"{'!' if one.rejects else ' '} {one.line}" for one in map(read_finding, findings)]
    for cause in round_causes(findings):
        lines.append(f"  cause: {cause}")
        if cause.advice:
            lines.append(f"  try: {cause.advice}")
    return lines


def told_of_round(findings: Sequence[Finding]) -> dict[str, Json]:
    """The same for a program: findings with statistic and whether they are enforced, and causes."""
    told: list[Json] = []
    for one in map(read_finding, findings):
        told.append({**one.finding.to_json(), "statistic": one.statistic, "enforced": one.enforced})
    return {"findings": told, "causes": [cause.to_json() for cause in round_causes(findings)]}


def _cause(one: ReadFinding) -> Cause:
    """The first that is known of; the tables end with what fits every finding of a check."""
    check, detail = one.finding.check, one.statistic if one.finding.check in _STATISTICS else one.finding.detail
    for known in _KNOWN:
        if known.check == check and known.words in detail:
            return known.cause
    return Cause(one.finding.detail or f"check {check} rejects", _CERTAIN)


def _undecided(finding: Finding) -> Cause:
    return Cause(
        f"this validator could not find out: {finding.detail}",
        _CERTAIN,
        advice="a fault of the validator's and none of the miner's: look at the validator's log",
    )


def _short(value: int | str) -> str:
    """A number as a person reads it; a digest by its first digits."""
    text = str(value)
    return f"{text[:16]}…" if len(text) > 40 else text
