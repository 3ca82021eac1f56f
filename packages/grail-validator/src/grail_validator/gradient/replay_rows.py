"""Everybody's part of a published round, made again from its bytes and the evidence; the order of checks is `judging`'s.

A row is judged again where its bytes can still be had and nothing of it happened on the validator's machine alone. What only
the sights saw is taken as the verdict says: an object that was missing, late or other bytes, and the store's times. An opening
has no digest of its own, so one that is not (any more) what the verdict saw decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from grail_core.errors import ProtocolViolationError
from grail_core.files.gradient_evidence import MinerMeasured
from grail_core.gradient import opening, update_file
from grail_core.keys import ss58
from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.protocol.context import Challenge, challenge_seed
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.judging import OWN_CHECK, MinerFacts, selected
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.miner_verdicts import GradientMinerVerdict
from grail_core.protocol.gradient.seal import MAX_GRADIENT_SEAL_BYTES, GradientSeal
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.types import Hotkey
from grail_core.protocol.verdicts import MAX_REASON, MinerStatus
from grail_core.storage.layout import opening_key, seal_key, update_key
from grail_core.text import printable
from grail_core.verification.gradient.evidence import require_measured_of, require_one_baseline
from grail_core.verification.gradient.files import CHUNKS, FILE, Examined, Round, Sealer, StoredObject, examine_file
from grail_core.verification.gradient.measure import opened_step
from grail_core.verification.gradient.model_checks import proof_findings, replay_findings
from grail_core.verification.gradient.seal import read_round_seal
from grail_core.verification.gradient.similar import similar_finding, similar_pairs
from grail_core.verification.wording import in_short
from grail_validator.published import Published
from grail_validator.replay_report import Taken

_LATE: Final = "after it was due"
_OTHER_BYTES: Final = "other bytes than those that were sealed"
_NEVER: Final = 2**62 + 1


class Unreadable(Exception):
    """What a round rests on cannot be had."""


@dataclass(eq=False)
class _Row:
    """One hotkey on its way through the checks again. `as_said`: its findings are the verdict's."""

    said: GradientMinerVerdict
    seal: GradientSeal
    examined: Examined | None = None
    findings: list[Finding] = field(default_factory=list)
    as_said: bool = False
    withheld: bool = False
    measured: MinerMeasured | None = None

    @property
    def stands(self) -> bool:
        revealed = self.examined is not None and self.examined.revealed is not None
        return revealed and all(one.outcome is Outcome.ACCEPT for one in self.findings)


@dataclass(eq=False)
class RowsAgain:
    """The miners of one round. `faults` and `taken` are added to; `rejudged` counts whose files went through the checks.

    Args:
        table: by which sketches were judged; None: by the coarse bounds alone.
    """

    published: Published
    round: Round
    challenge: Challenge
    body: GradientVerdictBody
    memory: GradientMemory
    measured: Mapping[Hotkey, MinerMeasured]
    table: CalibrationTable | None
    shape: Shape
    faults: list[str]
    taken: list[Taken]
    rejudged: int = 0

    def facts(self) -> tuple[MinerFacts, ...]:
        """What was found of everybody. Raises Unreadable."""
        rows = [_Row(one, self._seal(one)) for one in self.body.miners if one.status is not MinerStatus.ABSENT]
        for row in rows:
            self._examine(row)
        self._measure(rows)
        self._require_evidence(rows)
        found = {row.said.hotkey: self._fact(row) for row in rows}
        absent = [one for one in self.body.miners if one.status is MinerStatus.ABSENT]
        if absent:
            self.taken.append(Taken("absent", f"why no seal of {len(absent)} hotkeys counted: what first sight saw"))
        for one in absent:
            found[one.hotkey] = MinerFacts(one.uid, one.hotkey, None, reason=one.reason, findings=one.findings)
        return tuple(found[one.hotkey] for one in self.body.miners)

    # --- bytes ----------------------------------------------------------------------------------------------------------

    def _seal(self, said: GradientMinerVerdict) -> GradientSeal:
        """The very seal that was taken, through check 1 again."""
        for raw in self._lying(seal_key(ss58(said.hotkey), self.body.window), MAX_GRADIENT_SEAL_BYTES):
            if hashlib.sha256(raw).digest() != said.seal_digest:
                continue
            seal = read_round_seal(raw, said.hotkey, self.round.context, self.round.layout)
            if isinstance(seal, list):
                self.faults.append(f"seal of uid {said.uid}: it was taken, and check 1 refuses it: {seal[0].detail}")
                raise Unreadable("a seal that is none was taken")
            return seal
        raise Unreadable(f"the seal of uid {said.uid} is nowhere any more")

    def _lying(self, key: str, most: int) -> list[bytes]:
        return list(self.published.lying(key, most))

    def _examine(self, row: _Row) -> None:
        """Checks 2 to 5, or what the verdict says of them where only a sight could see it."""
        said = row.said
        first = next((one for one in said.findings if one.outcome is Outcome.REJECT), None)
        detail = "" if first is None else first.detail
        if said.status is MinerStatus.INCONCLUSIVE:
            self._as_said(row, f"what went wrong on this validator's machine ({said.reason})")
            if not any(one.outcome is Outcome.INCONCLUSIVE for one in said.findings):
                return  # it did not see whether the file came
        if first is not None and first.check == FILE and (detail.endswith(_LATE) or detail == _OTHER_BYTES):
            self._as_said(row, f"what was seen of its file: {detail}")
            row.withheld = True
            return
        update = StoredObject(reason=detail) if said.update_time_ms is None else self._update(said)
        shown = self._opening(said, first)
        found = [examine_file(self.round, self._sealer(row), update, one) for one in shown]
        # Whoever has the key may have replaced an opening since: the one that the verdict saw is looked for.
        wanted = () if first is None or first.check != CHUNKS else (first,)
        row.examined = next((one for one in found if one.findings == wanted), found[0])
        if _is_of_opening(row.examined.findings) != bool(wanted) or (wanted and row.examined.findings != wanted):
            if not wanted:
                raise Unreadable(f"the opening of uid {said.uid} is not, or not any more, the one that was seen")
            self._as_said(row, f"what its opening was when it was seen: {detail}")
            row.withheld = said.failed_by_replay and said.replay
            row.examined = replace(row.examined, findings=wanted, revealed=None, accepted_layout=True)
            return
        self.rejudged += 1
        if not row.as_said:
            row.findings += row.examined.findings
            row.withheld = row.examined.withheld

    def _as_said(self, row: _Row, why: str) -> None:
        row.as_said, row.findings = True, [one for one in row.said.findings if one.check != OWN_CHECK]
        self.taken.append(Taken(f"uid {row.said.uid}", why))

    def _sealer(self, row: _Row) -> Sealer:
        known = self.memory.of(row.said.hotkey).standing.feedback
        return Sealer(row.said.uid, row.said.hotkey, row.seal, known)

    def _update(self, said: GradientMinerVerdict) -> StoredObject:
        most = update_file.most_bytes(self.round.layout, self.round.context.spec)
        for raw in self._lying(update_key(ss58(said.hotkey), self.body.window), most):
            if hashlib.sha256(raw).digest() == said.content_digest:
                return StoredObject(raw, said.update_time_ms or 0)
        raise Unreadable(f"the update of uid {said.uid} is nowhere any more")

    def _opening(self, said: GradientMinerVerdict, first: Finding | None) -> list[StoredObject]:
        """Those that lie there now; there is at least one entry."""
        of_opening = first is not None and first.check == CHUNKS
        detail = first.detail if first is not None and of_opening else ""
        if said.opening_time_ms is None:
            return [StoredObject(reason=detail)]
        if detail.endswith(_LATE):
            return [StoredObject(b"", _NEVER)]
        most = opening.most_bytes(self.round.layout, self.round.context.spec)
        lying = self._lying(opening_key(ss58(said.hotkey), self.body.window), most)
        return [StoredObject(raw, said.opening_time_ms) for raw in lying] or [StoredObject()]

    # --- checks 6 to 9 --------------------------------------------------------------------------------------------------

    def _measure(self, rows: list[_Row]) -> None:
        """Of whom each check is for, in the order of `judging`, from the evidence."""
        spec, seed = self.round.context.spec, self.challenge.select_seed
        declared = {row.said.hotkey: row.seal.header.declared for row in rows}
        coins = selected(spec, self.body.window, seed, declared, self.memory)
        merged = set(self.body.merge.merged) if self.body.merge is not None else set()
        passed = {row.said.uid: row.examined.revealed for row in rows if row.examined and row.examined.revealed}
        similar = similar_pairs({uid: one.file for uid, one in passed.items()}, self.round.layout, spec, seed)
        for row in rows:
            if row.said.uid not in passed or row.as_said:
                continue
            if row.said.uid in similar:
                row.findings.append(similar_finding(*similar[row.said.uid]))
            checked = coins[row.said.hotkey].selected or (row.said.uid, row.seal.content_digest) in merged
            self._checks(row, checked=checked)

    def _checks(self, row: _Row, *, checked: bool) -> None:
        """The replay, the sketches and the scores of one file."""
        assert row.examined is not None
        revealed, context, layout = row.examined.revealed, self.round.context, self.round.layout
        assert revealed is not None
        opened = opened_step(layout, revealed, self.round.theta)
        due = opened is not None or checked
        one = self.measured.get(row.said.hotkey)
        if one is None:
            if due:
                raise self._lacks(row, "anything")
            return
        try:
            require_measured_of(revealed, opened, one, context.spec)
        except ProtocolViolationError as error:
            self.faults.append(f"evidence: {error.what}")
            raise Unreadable("the evidence is not of what was drawn") from error
        row.measured = one
        if opened is not None:
            if one.replayed is None:
                raise self._lacks(row, "the replayed step")
            row.findings += replay_findings(context, layout, opened, one.replayed)
        if not checked or not row.stands:
            return
        if one.sketches is None:
            raise self._lacks(row, "the sketches")
        proof_class = revealed.header.proof_class
        pair = None if self.table is None else self.table.lookup(proof_class, one.numerics_class)
        row.findings += proof_findings(revealed, one.sketches, pair=pair, shape=self.shape)
        if row.stands and one.common is None:
            raise self._lacks(row, "the losses")

    def _lacks(self, row: _Row, what: str) -> Unreadable:
        self.faults.append(f"evidence: it has not {what} of uid {row.said.uid}, {row.said.status.value}")
        return Unreadable("the evidence is not whole")

    def _require_evidence(self, rows: list[_Row]) -> None:
        """All were scored from one baseline, in classes that may validate."""
        used = [row.measured for row in rows if row.measured is not None]
        try:
            require_one_baseline(used)
        except ProtocolViolationError as error:
            self.faults.append(f"evidence: {error.what}")
        allowed = set(self.round.context.params.validator_classes) & set(NUMERICS_CLASSES)
        if foreign := sorted({one.numerics_class for one in used} - allowed):
            self.faults.append(f"evidence: no validator may measure in numerics class {foreign[0]}")

    def _fact(self, row: _Row) -> MinerFacts:
        said, examined = row.said, row.examined
        header = examined.header if examined is not None and examined.accepted_layout else None
        told = next((one for one in row.findings if one.outcome is Outcome.REJECT), None)
        one = None if row.measured is None else row.measured
        undecided = any(finding.outcome is Outcome.INCONCLUSIVE for finding in row.findings)
        return MinerFacts(
            uid=said.uid,
            hotkey=said.hotkey,
            seal=row.seal,
            reason=said.reason if row.as_said else printable(in_short(told) if told else "", MAX_REASON),
            seal_time_ms=said.seal_time_ms,
            update_time_ms=said.update_time_ms,
            opening_time_ms=said.opening_time_ms,
            findings=tuple(row.findings),
            withheld=row.withheld,
            sight_missed=said.status is MinerStatus.INCONCLUSIVE and not undecided,
            feedback_after=None if header is None else header.feedback_after,
            challenge_seed=challenge_seed(self.round.context.window, self.challenge, row.seal.content_digest),
            common=None if one is None or one.common is None else tuple(one.common.differences),
            own=None if one is None or one.own is None else tuple(one.own.differences),
        )


def _is_of_opening(findings: tuple[Finding, ...]) -> bool:
    return any(one.check == CHUNKS for one in findings)
