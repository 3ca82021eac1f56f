"""Evidence against the challenge: who leaves out what it has to measure, or measures something else, is found out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import pytest

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.proof.calibration import shipped_table
from grail_core.proof.work import REFERENCE, ComparedRollout
from grail_core.protocol.randomness import COIN_ALTERNATIVES, coin_falls
from grail_core.protocol.types import Digest
from grail_core.verification.challenged import compared_first, require_challenged
from grail_core.verification.window_file import Submission, check_file
from tooling.testing import plain_window as plain

CONTEXT = plain.window_context()
MINER = plain.MINERS[0]
SEED = Digest(b"s" * 32)
TABLE = shipped_table()
FIRST = compared_first(SEED, 32)
ALL = range(32)
SETTLED, NEAR = 0.05, 0.2 * plain.OWN_DRIFT
"""How far an earlier checkpoint's sketches lie from the current one's: farther than is settled by sixteen, and nearer."""


@pytest.fixture(scope="module")
def file() -> Submission:
    data = plain.window_file(CONTEXT, MINER, plain.rollouts(CONTEXT, MINER, range(2)))
    opened = check_file(data, plain.digest_of(data), MINER.hotkey, CONTEXT)
    assert isinstance(opened, Submission)
    return opened


def measured(file: Submission, places: Collection[int] = (), distance: float = SETTLED, offset: float = 0.0) -> MinerEvidence:
    """Of all the challenge draws, with the rollouts at these places compared."""
    evidence = plain.TruthfulSampling(SEED, offset).measure(file, plain.check_context(CONTEXT, MINER.hotkey))
    rollouts = [
        replace(one, compared=compared(one, distance)) if at in places else one for at, one in enumerate(evidence.rollouts)
    ]
    return replace(evidence, rollouts=tuple(rollouts))


def compared(one: RolloutEvidence, distance: float) -> ComparedRollout:
    assert one.reference is not None
    z = one.reference.z
    away = np.float32(distance) * np.sign(np.random.default_rng(one.rollout).normal(size=z.shape)).astype(np.float32)
    earlier = {REFERENCE: z, "previous-1": z + away}
    return ComparedRollout(tuple(one.positions.tolist()), earlier, {}, one.reference.noise, one.reference.spread)


def require(file: Submission, evidence: MinerEvidence, permille: int = 1000) -> None:
    require_challenged(file, evidence, SEED, TABLE, replace(CONTEXT.params, alternatives_permille=permille))


def test_sixteen_are_compared_and_all_where_they_leave_something_open(file: Submission) -> None:
    require(file, measured(file, FIRST))
    require(file, measured(file, ALL, NEAR))
    with pytest.raises(ProtocolViolationError, match="on 16 rollouts, or on others than the 32"):
        require(file, measured(file, FIRST, NEAR))
    with pytest.raises(ProtocolViolationError, match="on 32 rollouts, or on others than the 16"):
        require(file, measured(file, ALL))


def test_a_validator_that_does_not_compare_is_found_out_where_the_coin_fell(file: Submission) -> None:
    with pytest.raises(ProtocolViolationError, match="not compared with alternatives"):
        require(file, measured(file))
    require(file, measured(file), permille=0)
    with pytest.raises(ProtocolViolationError, match="on 16 rollouts, or on others than the 0"):
        require(file, measured(file, FIRST), permille=0)


@pytest.mark.parametrize(
    "places",
    [FIRST[1:], [(at + 1) % 32 for at in FIRST], [*FIRST, next(at for at in ALL if at not in FIRST)]],
    ids=["one less", "others", "one more"],
)
def test_a_validator_that_chooses_what_it_compares_is_found_out(file: Submission, places: list[int]) -> None:
    with pytest.raises(ProtocolViolationError, match=r"compared|measured on"):
        require(file, measured(file, places))


def test_what_fails_without_a_comparison_is_not_compared(file: Submission) -> None:
    require(file, measured(file, offset=0.5))
    with pytest.raises(ProtocolViolationError, match="others than the 0"):
        require(file, measured(file, FIRST, offset=0.5))


def without_reference(one: RolloutEvidence) -> RolloutEvidence:
    return replace(one, reference=None)


def at_fewer_positions(one: RolloutEvidence) -> RolloutEvidence:
    assert one.compared is not None
    kept = ComparedRollout(one.compared.positions[:-1], {}, {}, one.compared.noise[:-1], one.compared.spread[:-1])
    return replace(one, compared=kept)


def with_a_lost_reference(one: RolloutEvidence) -> RolloutEvidence:
    assert one.reference is not None
    return replace(one, reference=replace(one.reference, z=one.reference.z * np.float32("nan")))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without_reference, "not held against the float32 reference"),
        (at_fewer_positions, "compared positions are not those"),
        (with_a_lost_reference, "names 0 inconclusive rollouts and shows 1"),
    ],
)
def test_a_validator_that_leaves_out_what_it_has_to_measure_is_found_out(
    file: Submission, change: Callable[[RolloutEvidence], RolloutEvidence], complaint: str
) -> None:
    evidence = measured(file, FIRST)
    rollouts = [change(one) if at == FIRST[0] else one for at, one in enumerate(evidence.rollouts)]
    with pytest.raises(ProtocolViolationError, match=complaint):
        require(file, replace(evidence, rollouts=tuple(rollouts)))


def test_a_coin_falls_as_often_as_the_network_says() -> None:
    seeds = [hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(4_000)]
    fell = {permille: sum(coin_falls(seed, COIN_ALTERNATIVES, permille) for seed in seeds) for permille in (0, 250, 1000)}
    assert (fell[0], fell[1000]) == (0, 4_000)
    assert abs(fell[250] - 1_000) < 5 * (4_000 * 0.25 * 0.75) ** 0.5
