"""Gradient work, sections 8, 10 and 12: what is drawn once seals are fixed, each from its own tag.

Draws from the challenge seed are bound to one file's bytes and tell its miner what to open; those from the select seed are the
same for everybody. All of it is public from the challenge on and unknown before. Nothing here knows a model or a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from grail_core.protocol.gradient.assignment import Place, first_common_place
from grail_core.protocol.gradient.spec import PERMILLE, GradientSpec
from grail_core.protocol.randomness import coin_falls, draw

CHUNKS = "grail/draw/gradient-chunks"
REPLAY = "grail/draw/gradient-replay"
STEP = "grail/draw/gradient-step"
COMMON = "grail/draw/gradient-common"
OWN = "grail/draw/gradient-own"
NEWCOMERS = "grail/draw/gradient-newcomers"


@dataclass(frozen=True)
class Opened:
    """What one sealed file must open: chunks by their number in the layout, in drawn order, and the replayed step, if any."""

    chunks: tuple[int, ...]
    step: int | None


def opened(spec: GradientSpec, challenge_seed: bytes, total_chunks: int) -> Opened:
    """Of a file, from the challenge seed that is bound to its digest. A layout of fewer chunks than are drawn opens all."""
    chunks = draw(challenge_seed, CHUNKS, total_chunks, min(spec.chunks_drawn, total_chunks))
    return Opened(tuple(chunks), replayed_step(spec, challenge_seed))


def replay_falls(spec: GradientSpec, challenge_seed: bytes) -> bool:
    """Is a step of this file replayed? Tossed for every sealed file: the rate must be known."""
    return coin_falls(challenge_seed, REPLAY, Fraction(spec.replay_permille, PERMILLE))


def replayed_step(spec: GradientSpec, challenge_seed: bytes) -> int | None:
    """The step j that is replayed, 0 where only the ends are committed to; None where the coin did not fall."""
    return forced_step(spec, challenge_seed) if replay_falls(spec, challenge_seed) else None


def forced_step(spec: GradientSpec, challenge_seed: bytes) -> int:
    """The step of a replay whatever its coin."""
    return 0 if spec.commit == "ends" else draw(challenge_seed, STEP, spec.inner_steps, 1)[0]


def common_places(spec: GradientSpec, select_seed: bytes, highest_uid: int) -> list[int]:
    """Places of π whose sequences everybody is scored on, in drawn order; the guard takes the first `spec.guard` of them.

    Raises:
        ValueError: fewer common places than are drawn (`assignment.require_sequences`).
    """
    first = first_common_place(spec, highest_uid)
    return [first + at for at in draw(select_seed, COMMON, spec.sequences - first, spec.common)]


def guard_places(spec: GradientSpec, select_seed: bytes, highest_uid: int) -> list[int]:
    """The common places by which a merge leaves out updates that do harm."""
    return common_places(spec, select_seed, highest_uid)[: spec.guard]


def own_places(spec: GradientSpec, challenge_seed: bytes, uid: int, batch: int) -> list[Place]:
    """Of the H · b sequences that a miner trained on, those it is scored on beside the common ones, in drawn order."""
    trained = spec.inner_steps * batch
    return [Place(uid, *divmod(at, batch)) for at in draw(challenge_seed, OWN, trained, min(spec.own, trained))]


def newcomer_seats(spec: GradientSpec, select_seed: bytes, newcomers: Iterable[int]) -> list[int]:
    """UIDs of never yet checked candidates that get the ⌈peers/5⌉ seats of a merge, in drawn order."""
    uids = sorted(newcomers)
    return [uids[at] for at in draw(select_seed, NEWCOMERS, len(uids), min(-(-spec.peers // 5), len(uids)))]


def merge_order(spec: GradientSpec, select_seed: bytes, powers: dict[int, int], newcomers: Iterable[int]) -> list[int]:
    """Candidates of a merge, best first: the first `spec.peers` that the guard leaves are merged.

    Drawn newcomers come first, then everybody else by F of the lead body, then UID: seats without a newcomer go on by order.

    Args:
        powers: F by UID, of all candidates; 0 for whom the lead body does not know.
        newcomers: those of them that were never yet checked.
    """
    seated = newcomer_seats(spec, select_seed, newcomers)
    if not powers.keys() >= set(seated):
        raise ValueError("newcomers: one is no candidate")
    others = sorted(powers.keys() - set(seated), key=lambda uid: (-powers[uid], uid))
    return [*seated, *others]
