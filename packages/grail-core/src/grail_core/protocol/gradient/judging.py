"""Gradient work, sections 9 to 13: from what was found of every miner, and memory, to the verdict body of a round.

Pure: validators, replay and simulation share it. Checks hand in findings and losses; who is checked, who failed and for how
long, ranks, ratings, F and weights follow here. A finding that rejects fails the round, one that is inconclusive was a fault of
ours; what is only reported says "accept".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from grail_core.protocol.constants import SCORE_WINDOWS
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.challenge import replay_falls
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.miner_verdicts import REPLAY_CHECK, GradientMinerVerdict
from grail_core.protocol.gradient.own_test import OWN_ROUNDS, Reference, advantage, reference, shows_no_effect, z_of
from grail_core.protocol.gradient.ranking import Score, ranked
from grail_core.protocol.gradient.rating import START, Rating, rated
from grail_core.protocol.gradient.scores import MinerRound, Standing, failure_rounds, largest_power, volume
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.gradient.spec import GRADIENT, GradientSpec
from grail_core.protocol.gradient.verdicts import GradientVerdictBody, KindShare, MergeSeen
from grail_core.protocol.scores import WeightRule, shares_of_powers
from grail_core.protocol.selection import Selection, select_miners
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdicts import MinerStatus, Versions, WindowInputs, WindowStatus

OWN_CHECK = "own"


@dataclass(frozen=True)
class MinerFacts:
    """What was found of one registered hotkey in one round."""

    uid: int
    hotkey: Hotkey
    seal: GradientSeal | None = None  # None: there is none, or check 1 refused it
    challenge_seed: Digest | None = None  # bound to the sealed bytes (`context.challenge_seed`); with every seal
    reason: str = ""
    seal_time_ms: int | None = None
    update_time_ms: int | None = None
    opening_time_ms: int | None = None
    findings: tuple[Finding, ...] = ()
    withheld: bool = False  # file or opening missing, late, or not what seal and roots say: fails, and dodges a replay
    sight_missed: bool = False  # this validator did not see whether the file came
    feedback_after: Digest | None = None  # of its file, if that was in time and its layout accepted
    common: tuple[int, ...] | None = None  # loss before − after of each common sequence; None: not scored
    own: tuple[int, ...] | None = None  # of its own


@dataclass(frozen=True)
class OtherKind:
    """What another kind of work is owed: how many of the last 12 windows had it, and the powers of the last body of it."""

    kind: str
    windows: int
    body: Digest
    powers: Mapping[int, int]
    largest: int


@dataclass(frozen=True)
class RoundFacts:
    """All that a body follows from, beside memory.

    `windows` is how many of the last 12 had gradient work (`scores.shares_of_kinds`). `select_seed` is the challenge's
    (`context.Challenge`). In a round that is not scored there are no miners.
    """

    network_id: Digest
    spec: GradientSpec
    window: Window
    versions: Versions
    inputs: WindowInputs
    rule: WeightRule
    registered: Mapping[int, Hotkey]  # at block T
    select_seed: Digest | None = None
    miners: tuple[MinerFacts, ...] = ()
    merge: MergeSeen | None = None  # `ineligible` is found here
    windows: int = SCORE_WINDOWS
    others: tuple[OtherKind, ...] = ()
    status: WindowStatus = WindowStatus.SCORED
    reason: str = ""


def selected(
    spec: GradientSpec, window: Window, select_seed: bytes, declared: Mapping[Hotkey, int], memory: GradientMemory
) -> dict[Hotkey, Selection]:
    """Whose work a model checks, by coin, of all whose seals were taken; whoever is merged is checked beside them.

    Args:
        declared: as sealed.
    """
    candidates = {hotkey: memory.candidate(spec, window, hotkey, said) for hotkey, said in declared.items()}
    return {one.hotkey: one for one in select_miners(select_seed, candidates)}


def judge_round(facts: RoundFacts, memory: GradientMemory) -> GradientVerdictBody:
    """The verdict body of a round: rows, ranks, ratings, standings, F and weights.

    Args:
        memory: of the rounds before (`GradientMemory.after` each).

    Raises:
        ValueError: facts that contradict each other (a miner that is not registered, losses over other sequences).
    """
    rows = _rows(facts, memory)
    rounds: dict[Hotkey, tuple[MinerRound, ...]] = {hotkey: memory.of(hotkey).rounds for hotkey in facts.registered.values()}
    for hotkey, row in rows.items():
        rounds[hotkey] = (*rounds[hotkey], row.miner_round(facts.window))
    own_reference, rows = _own(rows, rounds)
    told = {one.hotkey: one for one in facts.miners}
    standings: dict[int, Standing] = {}
    for uid, hotkey in sorted(facts.registered.items()):
        work, audited, valid = volume(facts.spec, rounds[hotkey], facts.window)
        known = replace(memory.of(hotkey).standing, work=work, audited=audited, valid=valid)
        if facts.status is not WindowStatus.SCORED:
            # Whose files came, this validator did not see. Void is what it found alone: to others the challenge may have come.
            known = replace(known, feedback=None)
        standings[uid] = _stands(known, rows[hotkey], told[hotkey], facts) if hotkey in rows else known
    powers = {uid: standing.power(facts.spec, facts.window) for uid, standing in standings.items()}
    kinds: list[tuple[Fraction, Mapping[int, int], int]] = [
        (Fraction(facts.windows, SCORE_WINDOWS), powers, largest_power(facts.spec))
    ]
    kinds += [(Fraction(one.windows, SCORE_WINDOWS), one.powers, one.largest) for one in facts.others]
    return GradientVerdictBody(
        network_id=facts.network_id,
        window=facts.window,
        status=facts.status,
        versions=facts.versions,
        reason=facts.reason,
        inputs=facts.inputs,
        miners=tuple(sorted(rows.values(), key=lambda row: row.uid)),
        hotkeys=dict(sorted(facts.registered.items())),
        standings=standings,
        powers=powers,
        weights=shares_of_powers(kinds, facts.rule),
        kinds=(KindShare(GRADIENT, facts.windows), *(KindShare(one.kind, one.windows, one.body) for one in facts.others)),
        merge=_merge(facts.merge, rows.values()),
        own_reference=own_reference,
    )


def _rows(facts: RoundFacts, memory: GradientMemory) -> dict[Hotkey, GradientMinerVerdict]:
    """Statuses, coins, ranks and ratings."""
    if not facts.miners:
        return {}
    if facts.status is not WindowStatus.SCORED:
        raise ValueError(f"miners: a round that is {facts.status.value} has none")
    if facts.select_seed is None or any(one.seal is not None and one.challenge_seed is None for one in facts.miners):
        raise ValueError("select_seed, challenge_seed: a round is judged from its challenge, and every seal from its own")
    if any(facts.registered.get(one.uid) != one.hotkey for one in facts.miners):
        raise ValueError("miners: one stands at a UID that its hotkey does not hold")
    declared = {one.hotkey: one.seal.header.declared for one in facts.miners if one.seal is not None}
    coins = selected(facts.spec, facts.window, facts.select_seed, declared, memory)
    merged = set(facts.merge.merged) if facts.merge is not None else set()
    statuses = {one.hotkey: _status(one, coins, merged) for one in facts.miners}
    if len(statuses) != len(facts.miners):
        raise ValueError("miners: a hotkey stands twice")
    judged = [one for one in facts.miners if statuses[one.hotkey] is MinerStatus.ACCEPTED]
    scores = ranked({one.uid: one.common for one in judged if one.common is not None})
    # One match over the checked and accepted, in order of UID: nobody's rating depends on who failed.
    before = [memory.of(facts.registered[uid]).standing.rating for uid in scores]
    after = dict(zip(scores, rated(before, [score.rank for score in scores.values()]), strict=True))
    rows: dict[Hotkey, GradientMinerVerdict] = {}
    for one in facts.miners:
        status, rating = statuses[one.hotkey], memory.of(one.hotkey).standing.rating
        moved = START if status is MinerStatus.FAILED else after.get(one.uid)
        rows[one.hotkey] = GradientMinerVerdict(
            hotkey=one.hotkey,
            uid=one.uid,
            status=status,
            reason=one.reason,
            seal_time_ms=one.seal_time_ms,
            update_time_ms=one.update_time_ms,
            opening_time_ms=one.opening_time_ms,
            rating_before=None if moved is None else rating,
            rating_after=moved,
            checked=moved is not None,
            findings=one.findings,
            **({} if one.seal is None else _of_seal(facts, one, one.seal, coins[one.hotkey], scores.get(one.uid))),
        )
    return rows


def _status(one: MinerFacts, coins: Mapping[Hotkey, Selection], merged: Collection[tuple[int, Digest]]) -> MinerStatus:
    if one.seal is None:
        return MinerStatus.ABSENT
    outcomes = {finding.outcome for finding in one.findings}
    if one.withheld or Outcome.REJECT in outcomes:
        return MinerStatus.FAILED
    checked = coins[one.hotkey].selected or (one.uid, one.seal.content_digest) in merged
    if one.sight_missed or Outcome.INCONCLUSIVE in outcomes or (checked and one.common is None):
        return MinerStatus.INCONCLUSIVE
    return MinerStatus.ACCEPTED if checked else MinerStatus.NOT_SELECTED


def _of_seal(facts: RoundFacts, one: MinerFacts, seal: GradientSeal, coin: Selection, score: Score | None) -> dict[str, Any]:
    """The members of a row that only a sealed file has."""
    replay = one.challenge_seed is not None and replay_falls(facts.spec, one.challenge_seed)
    rejected = any(finding.check == REPLAY_CHECK and finding.outcome is Outcome.REJECT for finding in one.findings)
    return {
        "seal_digest": seal.digest(),
        "content_digest": seal.content_digest,
        "declared": seal.header.declared,
        "check_probability": coin.probability,
        "coin": coin.coin,
        "replay": replay,
        "failed_by_replay": rejected or (replay and one.withheld),
        "score": score,
        # A single own sequence has no error, so it says nothing.
        "advantage": advantage(one.own, one.common) if score and one.common and one.own and len(one.own) > 1 else None,
        "valid": seal.header.declared if score is not None and score.above_baseline else 0,
    }


def _own(
    rows: Mapping[Hotkey, GradientMinerVerdict], rounds: Mapping[Hotkey, Sequence[MinerRound]]
) -> tuple[Reference | None, dict[Hotkey, GradientMinerVerdict]]:
    """The statistic of own data, over each hotkey's last judged rounds, this one among them. It is reported."""
    judged = {hotkey: [one for one in past if one.advantage is not None][-OWN_ROUNDS:] for hotkey, past in rounds.items()}
    z: dict[Hotkey, int] = {}
    for hotkey, past in judged.items():
        value = z_of([one.advantage for one in past if one.advantage is not None])
        if value is not None:
            z[hotkey] = value
    against = reference(z, [hotkey for hotkey, past in judged.items() if any(one.replayed for one in past)])
    found = dict(rows)
    for hotkey, row in rows.items():
        if row.advantage is None:
            continue
        said = row.findings
        if against is not None and shows_no_effect(z[hotkey], against):
            detail = "no effect of its own data; reported: pay does not depend on it in this version"
            said = (*said, Finding(OWN_CHECK, Outcome.ACCEPT, z[hotkey], against.z // 2, detail))
        found[hotkey] = replace(row, z=z[hotkey], findings=said)
    return against, found


def _stands(known: Standing, row: GradientMinerVerdict, told: MinerFacts, facts: RoundFacts) -> Standing:
    """A hotkey's standing after the round, its volume being counted already."""
    feedback = told.feedback_after
    if feedback is None:
        feedback = None if told.sight_missed else known.feedback
    until = known.unpaid_until
    if row.status is MinerStatus.FAILED:
        rounds = failure_rounds(facts.spec, by_replay=row.failed_by_replay)
        until = max(until, Window(facts.window + rounds * facts.spec.round_blocks))
    rating: Rating = known.rating if row.rating_after is None else row.rating_after
    return replace(known, rating=rating, feedback=feedback, unpaid_until=until, checked=known.checked or row.checked)


def _merge(seen: MergeSeen | None, rows: Collection[GradientMinerVerdict]) -> MergeSeen | None:
    """What was merged, and what of it is absent, failed or another file here."""
    if seen is None:
        return None
    refused = (MinerStatus.ABSENT, MinerStatus.FAILED)
    eligible = {(row.uid, row.content_digest) for row in rows if row.status not in refused}
    return replace(seen, ineligible=tuple(uid for uid, digest in seen.merged if (uid, digest) not in eligible))
