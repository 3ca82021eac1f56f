"""A verdict against what everybody can compute: the finalised chain, the beacon, and the coins (sections 2, 10 and 11).

Whoever counts a verdict asks here first, and ignores it whole where it contradicts one of these: it is not the verdict of
this window, whatever else it says. What a body rests on and nobody else can compute stays its validator's word: how likely a
miner was to be drawn (between the floor and 1, it follows from that validator's memory), what became of a drawn file, and
which hotkeys it left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from grail_core.protocol import MinerStatus, MinerVerdict, VerdictBody, WindowInputs, WindowStatus
from grail_core.protocol.constants import CHECKED_MINERS_LEAST
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.selection import LEAST_PROBABILITY, falls, miner_coin
from grail_core.protocol.types import Hotkey

_DRAWN = (MinerStatus.ACCEPTED, MinerStatus.FAILED, MinerStatus.INCONCLUSIVE)


@dataclass(frozen=True)
class Contradiction:
    """One thing that a verdict says and that cannot be. `hotkey` None: of the window, not of a miner."""

    rule: str  # inputs, registration, coin, probability, draw
    said: str
    expected: str
    hotkey: Hotkey | None = None

    def __str__(self) -> str:
        whose = "" if self.hotkey is None else f" of {self.hotkey.hex()}"
        return f"{self.rule}{whose}: {self.said}; expected: {self.expected}"


def inputs_of(context: WindowContext, challenge: Challenge) -> WindowInputs:
    """What a scored verdict of this window names as its inputs."""
    return WindowInputs(
        block_hash=context.block_hash,
        select_block_hash=challenge.block_hash,
        seed_round=context.beacon.round if context.beacon else None,
        challenge_round=challenge.beacon.round if challenge.beacon else None,
        checkpoint_digest=context.checkpoint_digest,
        env_digest=context.env_digest,
    )


def contradictions(
    body: VerdictBody, inputs: WindowInputs, select_seed: bytes, registered: Mapping[int, Hotkey] | None = None
) -> tuple[Contradiction, ...]:
    """Everything in a body that cannot be, () for every honest one.

    Args:
        inputs: the reader's own, from the finalised chain and the verified beacon. A window that was not scored names none,
            or those that it had.
        select_seed: 32 bytes, of this window's challenge.
        registered: who held which UID at block T; None leaves that out.
    """
    found = [*_inputs(body, inputs)]
    if registered is not None and body.status is WindowStatus.SCORED:
        found += _registration(body, registered)
    for miner in body.miners:
        found += _coin(miner, select_seed, looked_back=_in_lookback(body, miner))
    if not found:
        found += _draw(body)
    return tuple(found)


def _inputs(body: VerdictBody, inputs: WindowInputs) -> Iterator[Contradiction]:
    scored = body.status is WindowStatus.SCORED
    for name in WindowInputs.__dataclass_fields__:
        said, expected = getattr(body.inputs, name), getattr(inputs, name)
        if said != expected and (scored or said is not None):
            yield Contradiction("inputs", f"{name} {_text(said)}", _text(expected))


def _registration(body: VerdictBody, registered: Mapping[int, Hotkey]) -> Iterator[Contradiction]:
    for uid, hotkey in sorted(body.hotkeys.items()):
        there = registered.get(uid)
        if there != hotkey:
            yield Contradiction("registration", f"it holds UID {uid}", f"{_text(there)} held it at block T", hotkey)


def _coin(miner: MinerVerdict, select_seed: bytes, *, looked_back: bool | None) -> Iterator[Contradiction]:
    """Section 2's coin, and what a probability may be whatever its validator remembers."""
    if miner.coin is None or miner.check_probability is None:
        if miner.status is not MinerStatus.ABSENT:
            yield Contradiction(
                "coin", f"{miner.status.value} without a coin", "a coin for every seal that was taken", miner.hotkey
            )
        return
    if miner.status is MinerStatus.ABSENT:
        yield Contradiction("coin", "absent, and a coin was tossed", "no coin without a seal that was taken", miner.hotkey)
        return
    coin = miner_coin(select_seed, miner.hotkey)
    if miner.coin != coin:
        yield Contradiction("coin", f"{miner.coin:016x}", f"{coin:016x}", miner.hotkey)
    chance = miner.check_probability
    if looked_back and chance != LEAST_PROBABILITY:
        yield Contradiction("probability", f"{chance} inside a look-back", str(LEAST_PROBABILITY), miner.hotkey)


def _in_lookback(body: VerdictBody, miner: MinerVerdict) -> bool | None:
    """Was it inside a failure's look-back when the coins were tossed? None where the body does not tell: its score inputs
    come after this window, whose own failure begins a look-back."""
    if not body.score_inputs[miner.uid].in_lookback:
        return False
    if miner.status is not MinerStatus.FAILED:
        return True
    return None if miner.check_probability == LEAST_PROBABILITY else False


def _draw(body: VerdictBody) -> Iterator[Contradiction]:
    """Drawn are those whose coin fell, and of those outside a look-back the lowest coins up to two."""
    tossed = [(miner.coin, miner.hotkey, miner) for miner in body.miners if miner.coin is not None]
    fallen = {hotkey for coin, hotkey, miner in tossed if falls(coin, miner.check_probability or Fraction(0))}
    for coin, hotkey, miner in tossed:
        if hotkey in fallen and miner.status not in _DRAWN:
            yield Contradiction("draw", f"{miner.status.value} with coin {coin:016x}", f"drawn at {_chance(miner)}", hotkey)
    # A miner that failed now may have been inside a look-back already: then its coin has fallen, or it was not drawn.
    free = sorted((coin, hotkey) for coin, hotkey, miner in tossed if _in_lookback(body, miner) is not True)
    others = [hotkey for _, hotkey in free if hotkey not in fallen]
    certain = sum(_in_lookback(body, miner) is False and hotkey in fallen for _, hotkey, miner in tossed)
    unclear = sum(_in_lookback(body, miner) is None and hotkey in fallen for _, hotkey, miner in tossed)
    most = min(len(others), max(0, CHECKED_MINERS_LEAST - certain))
    least = min(len(others), max(0, CHECKED_MINERS_LEAST - certain - unclear))
    added = {hotkey for _, hotkey, miner in tossed if miner.status in _DRAWN and hotkey not in fallen}
    for coin, hotkey, miner in tossed:
        if hotkey in added and hotkey not in others[:most]:
            yield Contradiction("draw", f"{miner.status.value} with coin {coin:016x}", f"not drawn at {_chance(miner)}", hotkey)
    for hotkey in others[: max(least, len(added))]:
        if hotkey not in added:
            yield Contradiction("draw", "not drawn", "drawn: one of the lowest coins, where fewer than two fell", hotkey)


def _chance(miner: MinerVerdict) -> str:
    return f"probability {miner.check_probability}"


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else "nothing" if value is None else str(value)
