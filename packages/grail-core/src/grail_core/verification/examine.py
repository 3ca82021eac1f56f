"""The nine checks in their order, written once: what a validator, a trainer, an adversary and an auditor all run.

    file → schema → unique → prompt → termination → sample → reward → model

`file` is about the bytes (`window_file.check_file`). `schema` to `termination` look at every rollout and need no model.
`sample` grades and measures some rollouts, `reward` and `model` decide from that evidence alone. The first stage that rejects
ends the examination: later ones rely on what earlier ones have established. `unique` never rejects: it says which rollouts
count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

from grail_core.errors import MachineFaultError
from grail_core.files.evidence import MinerEvidence
from grail_core.proof.calibration import CalibrationTable
from grail_core.proof.comparison import CHECKS as MODEL_CHECKS
from grail_core.protocol import Finding, Outcome
from grail_core.protocol.constants import (
    CHECK_ALL_BELOW,
    ROLLOUTS_PER_PROBLEM,
    SINGLE_ROLLOUTS_CHECKED,
    WHOLE_GROUPS_CHECKED,
)
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Digest
from grail_core.verification import model_checks, prompt, reward, schema, termination
from grail_core.verification.context import CheckContext
from grail_core.verification.evidence_fit import require_evidence_of
from grail_core.verification.uniqueness import distinct_rollouts
from grail_core.verification.window_file import Submission, check_file
from grail_core.verification.wording import accept

CHECKS: Final = ("file", "schema", "unique", "prompt", "termination", "reward", *MODEL_CHECKS)
"""Names of the nine checks of section 9, in order, as findings have them."""

MAX_INCONCLUSIVE_SHARE: Final = (1, 4)
"""A file counts neither as active nor as checked when more than this share of its sample is inconclusive."""


class Sampling(Protocol):
    """Which rollouts of a file are looked at, and the means to do so; `measure` has the validator's and the trainer's."""

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        """Own grade and own forward pass of the sampled rollouts."""
        ...

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        """The same evidence with what named alternatives would have given; unchanged where it is not to be compared."""
        ...


@dataclass(frozen=True)
class Examination:
    """What the checks said of one file. `identities` are the rollouts that count if it is accepted, once each."""

    findings: tuple[Finding, ...]
    submission: Submission | None = None  # None: the bytes are no file of this miner and window
    identities: tuple[Digest, ...] = ()
    evidence: MinerEvidence | None = None  # None: an earlier stage rejects, or nothing was sampled

    @property
    def reject(self) -> Finding | None:
        """The finding that fails the file."""
        return first_reject(self.findings)

    @property
    def undecided(self) -> Finding | None:
        """The finding that is for nobody and against nobody: what it is about was not measured as it has to be."""
        return next((finding for finding in self.findings if finding.outcome is Outcome.INCONCLUSIVE), None)

    @property
    def too_many_inconclusive(self) -> bool:
        """Could too little of the sample be graded for the window to count? It says nothing against a reject.

        What was looked at in place of others does not make the sample larger.
        """
        if self.evidence is None or self.submission is None:
            return False
        numerator, denominator = MAX_INCONCLUSIVE_SHARE
        drawn = min(len(self.evidence.rollouts), _sample_size(len(self.submission.groups)))
        return self.evidence.inconclusive * denominator > numerator * max(1, drawn)


@contextmanager
def _memory_is_this_machines() -> Iterator[None]:
    """Whatever a file says fits: limits were checked before it was opened."""
    try:
        yield
    except MemoryError as error:
        raise MachineFaultError(
            "this machine ran out of memory while it examined a file",
            hint="leave the validator more memory, or run fewer other programs beside it",
        ) from error


@_memory_is_this_machines()
def examine(
    file: bytes | Submission, context: CheckContext, sampling: Sampling | None = None, *, content_digest: Digest | None = None
) -> Examination:
    """Run a file through the checks.

    Args:
        file: its bytes (then with their SHA-256), or what `check_file` made of them earlier.
        sampling: None ends after `termination`; `examine_sample` goes on from there, once per sample.

    Raises:
        GrailError: a fault of this machine's (memory, a worker, an environment that is not installed), never the file's.
    """
    if isinstance(file, Submission):
        submission = file
    else:
        if content_digest is None:
            raise TypeError("bytes are examined together with their digest")
        opened = check_file(file, content_digest, context.hotkey, context.window, context.sealed, context.open_file)
        if not isinstance(opened, Submission):
            return Examination(tuple(opened))
        submission = opened
    examination = _every_rollout(submission, context)
    return examination if sampling is None else examine_sample(examination, context, sampling)


@_memory_is_this_machines()
def examine_sample(examination: Examination, context: CheckContext, sampling: Sampling) -> Examination:
    """The stages `sample` to `model` of a file that came through the earlier ones; one that did not stays as it is."""
    submission = examination.submission
    if submission is None or examination.reject is not None:
        return examination

    def under_alternatives(measured: MinerEvidence) -> MinerEvidence:
        context.require_time("the comparison with alternatives")
        return sampling.under_alternatives(submission, context, measured)

    evidence = sampling.measure(submission, context)
    findings, evidence = _decide(submission, evidence, context.table, context.window.params, under_alternatives)
    return replace(examination, findings=(*examination.findings, *findings), evidence=evidence)


def decide(
    submission: Submission, evidence: MinerEvidence, table: CalibrationTable, params: NetworkParameters
) -> tuple[Finding, ...]:
    """The stages `reward` and `model` from evidence, table and parameters: the same ones give the same findings anywhere.

    Raises:
        ProtocolViolationError: the evidence is not of this file, whoever wrote it.
    """
    require_evidence_of(submission, evidence)
    findings, _ = _decide(submission, evidence, table, params, lambda measured: measured)
    return findings


def first_reject(findings: Sequence[Finding]) -> Finding | None:
    return next((finding for finding in findings if finding.outcome is Outcome.REJECT), None)


def _sample_size(groups: int) -> int:
    """Rollouts that the challenge draws from a file with so many groups."""
    if groups * ROLLOUTS_PER_PROBLEM <= CHECK_ALL_BELOW:
        return groups * ROLLOUTS_PER_PROBLEM
    return WHOLE_GROUPS_CHECKED * ROLLOUTS_PER_PROBLEM + min(SINGLE_ROLLOUTS_CHECKED, groups - WHOLE_GROUPS_CHECKED)


def _every_rollout(submission: Submission, context: CheckContext) -> Examination:
    """The stages `schema` to `termination`."""
    identities: tuple[Digest, ...] = ()

    def unique() -> list[Finding]:
        nonlocal identities
        identities = tuple(distinct_rollouts(submission, context.history))
        return [accept("unique", value=len(identities), detail="distinct rollouts that were not counted before")]

    stages: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
        (schema.CHECK, lambda: schema.check_schema(submission, context)),
        ("unique", unique),
        (prompt.CHECK, lambda: prompt.check_prompts(submission, context)),
        (termination.CHECK, lambda: termination.check_termination(submission, context)),
    )
    findings: list[Finding] = [accept("file", value=len(submission.digests), detail="rows signed and bound")]
    for name, check in stages:
        context.require_time(name)
        found = check()
        findings += found or [accept(name)]
        if first_reject(found):
            break
    return Examination(tuple(findings), submission, identities)


def _decide(
    submission: Submission,
    evidence: MinerEvidence,
    table: CalibrationTable,
    params: NetworkParameters,
    widen: Callable[[MinerEvidence], MinerEvidence],
) -> tuple[tuple[Finding, ...], MinerEvidence]:
    """`widen` adds the alternatives to evidence; it is asked only where nothing else rejects, since they cost the most."""
    rejects = reward.check_rewards(submission, evidence)
    if rejects:
        return tuple(rejects), evidence
    statistics = model_checks.sample_statistics(submission, evidence, table, params)
    if not any(model_checks.rejects(statistic, evidence) for statistic in statistics):
        evidence = widen(evidence)
    statistics += model_checks.alternatives_statistics(submission, evidence, table, statistics)
    return (accept(reward.CHECK, value=len(evidence.rollouts)), *model_checks.findings_of(statistics, evidence)), evidence


__all__ = [
    "CHECKS",
    "Examination",
    "Sampling",
    "decide",
    "examine",
    "examine_sample",
    "first_reject",
]
