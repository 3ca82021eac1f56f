"""Evidence against the challenge: who leaves out what it has to measure, or measures something else, is found out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.proof.calibration import shipped_table
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES
from grail_core.proof.work import OWN, REFERENCE, ComparedRollout, Leads
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import COIN_FLOAT32, coin_falls, stream_words
from grail_core.protocol.types import Digest
from grail_core.verification.challenged import compared_first, held_against_float32, require_challenged
from grail_core.verification.window_file import Submission, check_file
from tooling.testing import plain_window as plain

CONTEXT = plain.window_context()
MINER = plain.MINERS[0]
SEED = Digest(b"s" * 32)
TABLE = shipped_table()
FIRST = compared_first(SEED, 32)
ALL = range(32)
SETTLED, NEAR = 0.05, 0.6 * plain.OWN_DRIFT
"""How far an earlier checkpoint's sketches lie from the current one's: so far that the first settle it, and nearer."""


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
        replace(one, compared=compared(one, distance, tokens=at in FIRST)) if at in places else one
        for at, one in enumerate(evidence.rollouts)
    ]
    return replace(evidence, rollouts=tuple(rollouts))


def compared(one: RolloutEvidence, distance: float, *, tokens: bool) -> ComparedRollout:
    """By sketches, and by tokens where nothing is known of the file yet."""
    assert one.reference is not None
    z = one.reference.z
    rng = np.random.default_rng(one.rollout)
    signs = np.sign(rng.normal(size=z.shape))
    own = one.z
    if distance == NEAR:  # what leaves it open is a lean of the claims towards it, whichever yardstick they are held against
        signs = np.where(rng.random(z.shape) < 0.55, np.sign(one.z - z), signs)
        own = 2 * z - one.z
    away = (distance * signs).astype(np.float32)
    earlier = {REFERENCE: z, OWN: own, "previous-1": z + away}
    far = np.full(len(z), 50.0, np.float32)
    leads = Leads(far, -far, np.full(len(z), -1, np.int32))  # nobody's token would be another
    drawn = dict.fromkeys(("previous-1", *SAMPLING_ALTERNATIVES) if tokens else (), leads)
    return ComparedRollout(tuple(one.positions.tolist()), earlier, drawn, one.reference.noise, one.reference.spread)


def require(
    file: Submission, evidence: MinerEvidence, permille: int = 1000, policy: GenerationPolicy = CONTEXT.manifest.policy
) -> None:
    params = replace(CONTEXT.params, float32_permille=permille)
    require_challenged(file, evidence, SEED, TABLE, params, policy, Fraction(1))


def bare(evidence: MinerEvidence) -> MinerEvidence:
    """Without a reference, as where the coin did not fall."""
    return replace(evidence, rollouts=tuple(replace(one, reference=None) for one in evidence.rollouts))


def test_the_first_are_compared_and_all_where_they_leave_something_open(file: Submission) -> None:
    require(file, measured(file, FIRST))
    require(file, measured(file, ALL, NEAR))
    with pytest.raises(ProtocolViolationError, match="on 12 rollouts, or on others than the 32"):
        require(file, measured(file, FIRST, NEAR))
    with pytest.raises(ProtocolViolationError, match="on 32 rollouts, or on others than the 12"):
        require(file, measured(file, ALL))


def test_the_others_are_compared_with_nothing_but_what_the_first_leave_open(file: Submission) -> None:
    evidence = measured(file, ALL, NEAR)
    at = next(at for at in ALL if at not in FIRST)
    one = evidence.rollouts[at].compared
    assert one is not None
    more = replace(one, z={**one.z, "int8": one.z["previous-1"]})
    rollouts = [replace(two, compared=more) if n == at else two for n, two in enumerate(evidence.rollouts)]
    with pytest.raises(ProtocolViolationError, match="compared with int8, which nothing speaks for"):
        require(file, replace(evidence, rollouts=tuple(rollouts)))


def test_a_validator_that_does_not_compare_is_found_out_where_the_coin_fell(file: Submission) -> None:
    with pytest.raises(ProtocolViolationError, match="not compared with alternatives"):
        require(file, measured(file))
    with pytest.raises(ProtocolViolationError, match="was not held against the float32 reference"):
        require(file, bare(measured(file)))


def test_a_validator_that_takes_float32_passes_though_the_coin_did_not_fall_is_found_out(file: Submission) -> None:
    require(file, bare(measured(file)), permille=0)
    with pytest.raises(ProtocolViolationError, match="was, against the challenge's coin, held against"):
        require(file, measured(file), permille=0)
    with pytest.raises(ProtocolViolationError, match="on 12 rollouts, or on others than the 0"):
        require(file, bare(measured(file, FIRST)), permille=0)


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


def with_nothing(one: RolloutEvidence) -> RolloutEvidence:
    assert one.compared is not None
    none = 0 * one.compared.noise
    return replace(one, compared=ComparedRollout(one.compared.positions, {}, {}, none, none))


def without_tokens_of(name: str) -> Callable[[RolloutEvidence], RolloutEvidence]:
    def change(one: RolloutEvidence) -> RolloutEvidence:
        assert one.compared is not None
        leads = {drawn: leads for drawn, leads in one.compared.leads.items() if drawn != name}
        return replace(one, compared=replace(one.compared, leads=leads))

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (with_nothing, "compared with nothing, though its reference says something"),
        *((without_tokens_of(name), f"not compared with '{name}'") for name in ("previous-1", *SAMPLING_ALTERNATIVES)),
    ],
)
@pytest.mark.parametrize("places", [FIRST[:1], FIRST], ids=["one", "all"])
def test_compared_means_with_all_that_there_is_to_compare_with(
    file: Submission, change: Callable[[RolloutEvidence], RolloutEvidence], complaint: str, places: list[int]
) -> None:
    evidence = measured(file, FIRST)
    rollouts = [change(one) if at in places else one for at, one in enumerate(evidence.rollouts)]
    with pytest.raises(ProtocolViolationError, match=complaint):
        require(file, replace(evidence, rollouts=tuple(rollouts)))


def test_with_nothing_is_compared_whose_reference_is_none(file: Submission) -> None:
    evidence = measured(file, FIRST)
    rollouts = list(evidence.rollouts)
    rollouts[FIRST[0]] = with_nothing(with_a_lost_reference(rollouts[FIRST[0]]))
    require(file, replace(evidence, rollouts=tuple(rollouts), inconclusive=1))


def test_tokens_are_compared_only_under_a_policy_that_lets_them_be_tested(file: Submission) -> None:
    evidence = measured(file, FIRST)
    penalised = replace(CONTEXT.manifest.policy, repetition_penalty=1.1)
    with pytest.raises(ProtocolViolationError, match="repetition penalty leaves out"):
        require(file, evidence, policy=penalised)
    drawn = ("previous-1", *SAMPLING_ALTERNATIVES)
    rollouts = list(evidence.rollouts)
    for at in FIRST:
        for name in drawn:
            rollouts[at] = without_tokens_of(name)(rollouts[at])
    require(file, replace(evidence, rollouts=tuple(rollouts)), policy=penalised)


SEEDS = [Digest(hashlib.sha256(bytes([n % 256, n // 256])).digest()) for n in range(4_000)]


def fallen(permille: int, probability: Fraction) -> int:
    params = replace(CONTEXT.params, float32_permille=permille)
    return sum(held_against_float32(seed, params, probability) for seed in SEEDS)


def test_a_deviation_is_held_against_float32_as_often_whatever_its_miners_chance_of_being_drawn() -> None:
    for p in (Fraction(1), Fraction(1, 2), Fraction(3, 7)):
        c = float(Fraction(1, 4) / p)
        assert abs(fallen(250, p) - 4_000 * c) < 5 * (4_000 * c * (1 - c)) ** 0.5
    for p in (Fraction(1, 4), Fraction(1, 10)):
        assert fallen(250, p) == 4_000  # drawn less often than the network asks for: every drawn file is
    assert (fallen(0, Fraction(1, 10)), fallen(1000, Fraction(1))) == (0, 4_000)


def test_a_coin_has_its_chance_exactly() -> None:
    first = next(stream_words(SEED, COIN_FLOAT32))
    assert coin_falls(SEED, COIN_FLOAT32, Fraction(first + 1, 2**64))
    assert not coin_falls(SEED, COIN_FLOAT32, Fraction(first, 2**64))
