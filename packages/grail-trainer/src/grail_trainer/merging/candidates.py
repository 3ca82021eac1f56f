"""Who is merged in a round: what passed the checks that need no model, in the order of the last verdict, less what does harm.

No verdict on the round itself is waited for: the next round would train weights that lack it. What an order rests on is
published before the round, and what the guard looks at is drawn after everybody's bytes are fixed. All of it is a function of
values, so whoever has the same files and the same lead body chooses alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from grail_core.gradient.merge import medians, norms2
from grail_core.keys import ss58
from grail_core.proof.round_work import Scored
from grail_core.protocol.findings import Finding
from grail_core.protocol.gradient.challenge import guard_places, merge_order
from grail_core.protocol.gradient.ranking import significantly_negative
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.telemetry import get_logger
from grail_core.verification.gradient.files import (
    Examined,
    Revealed,
    Round,
    Sealer,
    StoredObject,
    examine_file,
)
from grail_core.verification.gradient.measure import RoundScene, losses_after, losses_at
from grail_core.verification.gradient.seal import read_round_seal

log = get_logger(__name__)

HARM: Final = "guard"
MOST_LOOKED: Final = 3
"""Candidates that are looked at for each that may be merged: hotkeys cost little, and the checkpoint has its time."""


@dataclass(frozen=True)
class Lead:
    """What the last published verdicts say, of the hotkeys they know; nothing where there are none yet.

    `powers`: F. `checked`: hotkeys that were ever checked. `failing`: those whose failure still counts in this round.
    `feedback`: what each hotkey's last file left, where the body is of the round before this one.
    """

    round: Window | None = None
    digest: Digest | None = None
    powers: Mapping[Hotkey, int] = field(default_factory=dict)
    checked: frozenset[Hotkey] = frozenset()
    failing: frozenset[Hotkey] = frozenset()
    feedback: Mapping[Hotkey, Digest] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """One registered hotkey's objects of a round."""

    uid: int
    hotkey: Hotkey
    seal: StoredObject
    update: StoredObject = StoredObject()  # noqa: RUF009 - frozen
    opening: StoredObject = StoredObject()  # noqa: RUF009


@dataclass(frozen=True)
class Chosen:
    """Who is merged, best first, and who was looked at and left out, with why."""

    merged: tuple[Revealed, ...]
    dropped: Mapping[Hotkey, str]
    scores: Mapping[Hotkey, int]  # on the guard's sequences, in 2⁻²⁰ nats, of all that were looked at


def candidates(
    round: Round, seen: Mapping[Hotkey, Seen], lead: Lead, *, start_ms: int, deadline_ms: int
) -> tuple[dict[Hotkey, Revealed], dict[Hotkey, str]]:
    """Who sealed and revealed in time and passed checks 1 to 5, and why the others did not.

    Args:
        start_ms, deadline_ms: the times of blocks T and D: a seal counts that was stored after the one and by the other.
    """
    passed: dict[Hotkey, Revealed] = {}
    refused: dict[Hotkey, str] = {}
    for one in sorted(seen.values(), key=lambda one: one.uid):
        if one.seal.data is None:
            continue  # absent
        if not start_ms < one.seal.stored_at_ms <= deadline_ms:
            refused[one.hotkey] = "its seal was not stored between the round's beginning and its deadline"
            continue
        if one.hotkey in lead.failing:
            refused[one.hotkey] = "a failure of an earlier round still counts"
            continue
        seal = read_round_seal(one.seal.data, one.hotkey, round.context, round.layout)
        if isinstance(seal, list):
            refused[one.hotkey] = _said(seal)
            continue
        sealer = Sealer(one.uid, one.hotkey, seal, lead.feedback.get(one.hotkey))
        try:
            examined: Examined = examine_file(round, sealer, one.update, one.opening)
        except Exception as error:  # a stranger's bytes, whatever they do here, cost that stranger this merge
            log.exception("unforeseen while examining %s in round %d", ss58(one.hotkey), round.context.round)
            refused[one.hotkey] = f"unforeseen: {type(error).__name__}"
            continue
        if examined.revealed is None:
            refused[one.hotkey] = _said(list(examined.findings))
        else:
            passed[one.hotkey] = examined.revealed
    return passed, refused


def choose(scene: RoundScene, passed: Mapping[Hotkey, Revealed], lead: Lead, select_seed: bytes, highest_uid: int) -> Chosen:
    """The first `peers` in order whose update does no significant harm on common data that nobody could have seen."""
    if not passed:
        return Chosen((), {}, {})
    spec, by_uid = scene.context.spec, {one.sealer.uid: one for one in passed.values()}
    newcomers = [uid for uid, one in by_uid.items() if one.sealer.hotkey not in lead.checked]
    powers = {uid: lead.powers.get(one.sealer.hotkey, 0) for uid, one in by_uid.items()}
    most = medians([norms2(one.file.streams, scene.layout) for one in by_uid.values()])
    places = guard_places(spec, select_seed, highest_uid)
    rows = scene.rows([scene.assignment.common(place) for place in places])
    before = losses_at(scene, scene.theta, rows)
    merged: list[Revealed] = []
    dropped: dict[Hotkey, str] = {}
    scores: dict[Hotkey, int] = {}
    for uid in merge_order(spec, select_seed, powers, newcomers):
        if len(merged) == spec.peers or len(scores) == MOST_LOOKED * spec.peers:
            break
        one = by_uid[uid]
        after = losses_after(scene, one, most, [rows])[0]
        differences = Scored(before, after).differences
        scores[one.sealer.hotkey] = sum(differences)
        if significantly_negative(differences):
            dropped[one.sealer.hotkey] = HARM
        else:
            merged.append(one)
    return Chosen(tuple(merged), dropped, scores)


def _said(findings: list[Finding]) -> str:
    return "; ".join(f"{finding.check}: {finding.detail}" for finding in findings[:2])
