"""Who is drawn and what is looked at cannot be computed before the deadline: a miner that knows all there is tries to.

Before D a miner knows the code, every parameter, the window's own block hash and beacon round, everybody's seals and its own
file. Here it predicts with all of that, over hundreds of futures that it does not know: what it predicts agrees with what comes
true as often as chance has it, by exact binomial bounds. And what must not enter a draw is shown not to: each of the two values
of after D changes it, neither is had before, and no other place in the code makes a seed to draw from.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from grail_core.beacon.development import DevelopmentBeacon, DevelopmentKey
from grail_core.chain.base import BlockInfo
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.errors import ChainError
from grail_core.participant.windows import challenge_of, open_challenge
from grail_core.protocol import Candidate, Seal, WindowTimes, sample_rollouts, select_miners
from grail_core.protocol.beacon import BeaconChain, SignedRound
from grail_core.protocol.constants import UNIQUE_ROLLOUTS_CAP, WHOLE_GROUPS_CHECKED
from grail_core.protocol.context import Challenge, WindowContext, challenge_seed
from grail_core.protocol.network import NETWORKS
from grail_core.protocol.rollouts.noise import challenged_positions
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from tooling import REPOSITORY
from tooling.testing import plain_window as plain

FUTURES = 300
FUTURES_OF_ALL = 60  # in each of which all miners' coins are tossed
MINERS = 100  # full ones: each is drawn with 35 in 100
GROUPS = 40
TOKENS = 400
CHANCE = 1e-9  # that a sound protocol fails one of the comparisons below; there are some thirty
CONTEXT = replace(plain.window_context(), beacon=SignedRound(7, b"s" * 48))
HOTKEYS = [Hotkey(hashlib.sha256(bytes([number])).digest()) for number in range(MINERS)]
CANDIDATES = {hotkey: Candidate(UNIQUE_ROLLOUTS_CAP, 4 * UNIQUE_ROLLOUTS_CAP) for hotkey in HOTKEYS}
SEALS = tuple(
    plain.seal(CONTEXT, miner, plain.window_file(CONTEXT, miner, plain.rollouts(CONTEXT, miner, range(1))))
    for miner in plain.MINERS
)
"""What lies in everybody's buckets before D."""
OWN = SEALS[0].content_digest
ROLLOUT = Digest(b"r" * 32)


def hashed(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def challenge(block_hash: bytes, randomness: bytes) -> Challenge:
    """As `challenge_of` makes it of a block and a round."""
    return Challenge(block_hash, None, CONTEXT.randomness.select_seed(block_hash, randomness))


def seed_of(guess: Challenge, randomness: bytes, content: Digest = OWN) -> Digest:
    return CONTEXT.randomness.challenge_seed(guess.block_hash, randomness, content)


def futures() -> Iterator[tuple[bytes, bytes]]:
    """The hash of the block in which first sight ends, and the round's randomness: nobody's choice, and not known yet."""
    for number in range(FUTURES):
        yield hashed("block", number), hashed("round", number)


KNOWN: dict[str, tuple[bytes, bytes]] = {
    "nothing": (bytes(32), bytes(32)),
    "the window's own block and round": (CONTEXT.block_hash, CONTEXT.beacon.randomness if CONTEXT.beacon else b""),
    "the window's own block as both": (CONTEXT.block_hash, CONTEXT.block_hash),
    "the hash of what is known so far": (hashed(CONTEXT.block_hash), hashed(CONTEXT.window_seed)),
    "everybody's seals": (hashed([seal.encode() for seal in SEALS]), hashed([seal.content_digest for seal in SEALS])),
    "the seeds of its own work": (CONTEXT.window_seed, hashed(CONTEXT.problem_seed(plain.MINERS[0].hotkey, 0))),
    "the network's parameters": (CONTEXT.network_id, hashed(sorted(vars(CONTEXT.params).items(), key=lambda item: item[0]))),
}
"""What a miner may put in place of the two values of after D."""


def chance_of(hits: int, tries: int, p: Fraction) -> Fraction:
    """Twice the smaller tail of the exact binomial distribution at `hits` of `tries`."""
    a, b = p.numerator, p.denominator
    weight, weights = (b - a) ** tries, []
    for k in range(tries + 1):
        weights.append(weight)
        weight = weight * (tries - k) * a // ((k + 1) * (b - a))
    total = b**tries
    return min(Fraction(1), 2 * min(Fraction(sum(weights[: hits + 1]), total), Fraction(sum(weights[hits:]), total)))


def test_the_bound_tells_a_prediction_that_is_right_one_time_in_ten_more_than_chance() -> None:
    """It can fail: else the tests below would show nothing."""
    assert chance_of(150, 300, Fraction(1, 2)) == 1
    assert chance_of(105, 300, Fraction(35, 100)) > Fraction(1, 2)
    assert chance_of(30 * FUTURES_OF_ALL * 45 // 100, 30 * FUTURES_OF_ALL, Fraction(35, 100)) < CHANCE
    assert chance_of(FUTURES, FUTURES, Fraction(35, 100)) < CHANCE


def drawn(select_seed: bytes) -> frozenset[Hotkey]:
    return frozenset(one.hotkey for one in select_miners(select_seed, CANDIDATES) if one.selected)


@pytest.fixture(scope="module")
def real_draws() -> list[frozenset[Hotkey]]:
    return [drawn(challenge(*future).select_seed) for future in islice(futures(), FUTURES_OF_ALL)]


@pytest.mark.parametrize("known", KNOWN)
def test_who_is_drawn_agrees_with_no_prediction_more_than_by_chance(known: str, real_draws: list[frozenset[Hotkey]]) -> None:
    predicted = drawn(challenge(*KNOWN[known]).select_seed)
    assert 10 < len(predicted) < 70
    hits = sum(len(predicted & real) for real in real_draws)
    assert chance_of(hits, len(predicted) * FUTURES_OF_ALL, Fraction(35, 100)) > CHANCE
    spared = CANDIDATES.keys() - predicted
    missed = sum(len(spared & real) for real in real_draws)
    assert chance_of(missed, len(spared) * FUTURES_OF_ALL, Fraction(35, 100)) > CHANCE


def whole_groups(seed: bytes) -> set[int]:
    return set(sample_rollouts(seed, range(GROUPS)).whole_groups)


def positions(seed: bytes) -> set[int]:
    return set(challenged_positions(seed, ROLLOUT, TOKENS)) - {0, TOKENS - 1}


@pytest.mark.parametrize("known", KNOWN)
def test_which_rows_and_positions_are_looked_at_agrees_with_no_prediction_more_than_by_chance(known: str) -> None:
    guess, randomness = challenge(*KNOWN[known]), KNOWN[known][1]
    seed = seed_of(guess, randomness)
    group, position = min(whole_groups(seed)), min(positions(seed))
    real = [seed_of(challenge(*future), future[1]) for future in futures()]
    hits = sum(group in whole_groups(one) for one in real)
    assert chance_of(hits, FUTURES, Fraction(WHOLE_GROUPS_CHECKED, GROUPS)) > CHANCE
    hits = sum(position in positions(one) for one in real)
    assert chance_of(hits, FUTURES, Fraction(len(positions(seed)), TOKENS - 2)) > CHANCE


@pytest.mark.parametrize("known", KNOWN)
def test_grinding_ones_file_until_the_prediction_spares_what_is_false_spares_nothing(known: str) -> None:
    """A hundred files that differ in a byte of padding, of which the one is sealed that the prediction likes best."""
    guess, randomness, junk = challenge(*KNOWN[known]), KNOWN[known][1], range(4)

    def found(content: Digest, guessed: Challenge, by: bytes) -> int:
        sample = sample_rollouts(seed_of(guessed, by, content), range(GROUPS))
        return sum(group in junk for group in (*sample.whole_groups, *(group for group, _ in sample.singles)))

    files = [Digest(hashed("padding", number)) for number in range(100)]
    best = min(files, key=lambda content: found(content, guess, randomness))
    real = [seed_of(challenge(*future), future[1], best) for future in futures()]
    hits = sum(any(group in junk for group in whole_groups(seed)) for seed in real)
    none = Fraction((GROUPS - 4) * (GROUPS - 5), GROUPS * (GROUPS - 1))
    assert chance_of(hits, FUTURES, 1 - none) > CHANCE


# --- what enters a draw ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["block", "round"])
def test_each_of_the_two_values_of_after_the_deadline_changes_every_draw(change: str) -> None:
    one, other = CONTEXT.block_hash, CONTEXT.window_seed
    first = SignedRound(8, b"a" * 48)
    second = SignedRound(8, b"b" * 48) if change == "round" else first
    block = BlockInfo(Block(1), one, 0)
    changed = BlockInfo(Block(1), one if change == "round" else other, 0)
    before, after = challenge_of(CONTEXT, block, first), challenge_of(CONTEXT, changed, second)
    assert drawn(before.select_seed) != drawn(after.select_seed)
    seeds = [challenge_seed(CONTEXT, known, OWN) for known in (before, after)]
    assert sample_rollouts(seeds[0], range(GROUPS)) != sample_rollouts(seeds[1], range(GROUPS))
    assert positions(seeds[0]) != positions(seeds[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_challenge_is_made_of_a_block_and_a_round_of_after_the_deadline_and_refused_before_they_are_there(
    name: str, tmp_path: Path
) -> None:
    params = NETWORKS[name]
    times = WindowTimes(Window(30), params)
    assert times.deadline_block < times.first_sight_end_block <= times.challenge_block
    chain = LocalChain.create(
        tmp_path / "chain.sqlite",
        seed="foresight",
        netuid=params.netuid,
        block_time_ms=params.block_time_ms,
        genesis_time_ms=1_700_000_000_000,
        clock=ClockMode.VIRTUAL,
    )
    asked: list[int] = []

    class Watched:
        """The chain as it is; tells which blocks the challenge is read from."""

        genesis_hash = chain.genesis_hash

        def block(self, number: Block) -> BlockInfo:
            asked.append(number)
            return chain.block(number)

    key = DevelopmentKey.from_seed(b"foresight")
    beacon = DevelopmentBeacon(key, BeaconChain(key.public_key, 1_700_000_000, 3))
    context = replace(CONTEXT, params=replace(params, beacon_policy="required"), window=Window(30))
    watched: Any = Watched()

    def open_now() -> Challenge:
        return open_challenge(watched, beacon, context)

    while chain.current_block() < times.challenge_block:
        with pytest.raises(ChainError):
            open_now()
        chain.advance(1)
    asked.clear()
    found = open_now()
    assert min(asked) == times.first_sight_end_block
    assert found.beacon is not None
    assert beacon.chain.time_of_ms(found.beacon.round) >= chain.block(times.challenge_block).timestamp_ms
    assert beacon.chain.time_of_ms(found.beacon.round) > chain.block(times.deadline_block).timestamp_ms


SEEDED = {"select_seed", "challenge_seed"}
PLACES = {
    "protocol/context.py",
    "participant/windows.py",
    "grail_validator/replay.py",
    "gradient/replaying.py",
}  # the last two from what a verdict has published


def test_a_seed_to_draw_from_is_made_where_a_challenge_is_known_and_nowhere_else() -> None:
    """Whoever else called these could draw from something that is known earlier."""
    found = set()
    sources = [path for path in (REPOSITORY / "packages").glob("*/src/**/*.py") if "simulation" not in path.parts]
    assert len(sources) > 200
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in SEEDED:
                found.add("/".join(path.parts[-2:]))
    assert found == PLACES


def test_a_context_holds_nothing_of_after_the_deadline() -> None:
    """What a miner works from: were the challenge in it, it would know it while it works."""
    assert set(WindowContext.__dataclass_fields__) == {"params", "network_id", "window", "block_hash", "beacon", "manifest"}
    assert set(Seal.__dataclass_fields__) == {"kind", "header", "content_digest", "size", "signature"}
