"""Evidence of a round: it comes back to the bit, what no writer writes is refused, and so are numbers of no measurement."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.errors import ProtocolViolationError
from grail_core.files.confined.opening import Confined
from grail_core.files.gradient_evidence import (
    COLUMNS,
    MAX_CHUNK,
    MAX_CHUNKS,
    MAX_SEQUENCES,
    NO_STEP,
    MinerMeasured,
    read_round_evidence,
    write_round_evidence,
)
from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.proof.replay import OpenedStep
from grail_core.proof.round_work import LARGEST_LOSS, PREVIOUS, MeasuredSketches, MeasuredStep, Scored
from grail_core.protocol.gradient.spec import MICRO
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.verification.gradient.evidence import require_measured_of, require_one_baseline
from grail_core.verification.gradient.files import Revealed
from grail_core.verification.gradient.measure import (
    common_rows,
    losses_at,
    opened_step,
    own_rows,
    sketches_of,
    step_of,
)
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_specs import TINY
from tooling.testing.played_rounds import play_round

Change = Callable[[MinerMeasured], MinerMeasured]
Array = npt.NDArray[np.float32]
CLASS = "bf16-sdpa-cpu-transformers"
SPEC = replace(TINY, common=6, own=4, guard=4)


def floats(rng: np.random.Generator, *shape: int) -> Array:
    """Any 32 bits: numbers, infinities, and NaNs of every kind."""
    return rng.integers(0, 2**32, shape, dtype=np.uint64).astype(np.uint32).view(np.float32)


def scored(rng: np.random.Generator, count: int) -> Scored:
    return Scored(*(rng.integers(-(2**31), 2**31, count).astype(np.int32) for _ in range(2)))


def measured(rng: np.random.Generator, parts: set[str], rows: int, previous: int, at: int = 0) -> MinerMeasured:
    sketches = replayed = None
    if "sketches" in parts:
        reference = floats(rng, rows, 5, 4) if "reference" in parts else None
        named = {name: floats(rng, rows, 5, 4) for name in PREVIOUS[:previous]} if reference is not None else {}
        sketches = MeasuredSketches(floats(rng, rows, 5, 4), reference, named)
    if "replay" in parts:
        theta, gradient = ([floats(rng, 3), floats(rng, 1)] for _ in range(2))
        replayed = MeasuredStep(theta, gradient if "gradient" in parts else None)
    return MinerMeasured(
        hotkey=Hotkey(bytes([at]) * 32),
        content_digest=Digest(b"c" * 32),
        numerics_class=CLASS,
        sketches=sketches,
        step=None if replayed is None else 3,
        replayed=replayed,
        common=scored(rng, 6) if "common" in parts else None,
        own=scored(rng, 4) if "own" in parts else None,
    )


def parts_of(one: MinerMeasured) -> dict[str, object]:
    """Every number by its place, as bytes: NaN is no equal of itself."""
    found: dict[str, object] = {"who": (one.hotkey, one.content_digest, one.numerics_class, one.step)}
    if one.sketches is not None:
        found["own"] = one.sketches.own.tobytes(), one.sketches.own.shape
        found["reference"] = None if one.sketches.reference is None else one.sketches.reference.tobytes()
        found |= {name: z.tobytes() for name, z in one.sketches.previous.items()}
    if one.replayed is not None:
        found["theta"] = [part.tobytes() for part in one.replayed.theta]
        found["gradient"] = one.replayed.gradient and [part.tobytes() for part in one.replayed.gradient]
    for name, some in (("common", one.common), ("own losses", one.own)):
        found[name] = some and (some.before.tobytes(), some.after.tobytes())
    return found


PARTS = st.sets(st.sampled_from(["sketches", "reference", "replay", "gradient", "common", "own"]))


@settings(max_examples=30)
@given(st.integers(0, 2**32), PARTS, PARTS, st.integers(1, 16), st.integers(0, 3))
def test_what_was_measured_comes_back_to_the_bit(seed: int, a: set[str], b: set[str], rows: int, previous: int) -> None:
    rng = np.random.default_rng(seed)
    written = [measured(rng, a, rows, previous), measured(rng, b, 1, previous, at=1)]
    data = write_round_evidence(written)
    read = read_round_evidence(data)
    assert [parts_of(one) for one in read] == [parts_of(one) for one in written]
    assert write_round_evidence(read) == data


def test_a_confined_reader_gives_the_same() -> None:
    every = {"sketches", "reference", "replay", "gradient", "common", "own"}
    data = write_round_evidence([measured(np.random.default_rng(1), every, 4, 3)])
    with Confined() as confined:
        assert [parts_of(one) for one in confined.open_round_evidence(data)] == [
            parts_of(one) for one in read_round_evidence(data)
        ]
        with pytest.raises(ProtocolViolationError):
            confined.open_round_evidence(data[:-3])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda one: replace(one, step=None), "a step its replay"),
        (lambda one: replace(one, replayed=MeasuredStep([], None)), "other chunks"),
        (lambda one: replace(one, replayed=MeasuredStep(one.replayed.theta, one.replayed.theta[:1])), "other chunks"),
        (lambda one: replace(one, common=Scored(one.common.before, one.common.after[1:])), "losses before"),
        (lambda one: replace(one, own=Scored(one.own.before[:0], one.own.after[:0])), "losses before"),
        (lambda one: replace(one, sketches=MeasuredSketches(one.sketches.own[:, :, :3], None, {})), "of shape"),
        (lambda one: replace(one, sketches=replace(one.sketches, reference=one.sketches.own[1:])), "other rows"),
        (lambda one: replace(one, sketches=replace(one.sketches, previous={"int8": one.sketches.own})), "named"),
    ],
)
def test_what_would_not_come_back_is_not_written(change: Change, complaint: str) -> None:
    every = {"sketches", "reference", "replay", "gradient", "common", "own"}
    one = measured(np.random.default_rng(1), every, 4, 3)
    with pytest.raises(ValueError, match=complaint):
        write_round_evidence([change(one)])


def numbers(count: int) -> bytes:
    return np.ones(count, np.int32).tobytes()


WHOLE = {
    "z": numbers(40),
    "reference_z": numbers(40),
    "previous": b"previous-1\nprevious-3",
    "previous_z": numbers(80),
    "chunk_sizes": np.array([3, 1], np.int32).tobytes(),
    "theta": numbers(4),
    "gradient": numbers(4),
    **{f"{name}_{when}": numbers(6) for name in ("common", "own") for when in ("before", "after")},
}


def columns(changes: dict[str, bytes], *, rows: int = 2, step: int = 3, count: int = 1) -> bytes:
    values: dict[str, Values] = {column.name: [b""] * count for column in COLUMNS}
    values |= {
        "hotkey": [b"h" * 32] * count,
        "content_digest": [b"c" * 32] * count,
        "numerics_class": [CLASS.encode()] * count,
        "sketched_rows": np.full(count, rows, np.int32),
        "step": np.full(count, step, np.int32),
    }
    return write_parquet(COLUMNS, {**values, **{name: [value] * count for name, value in {**WHOLE, **changes}.items()}}, {})


def test_the_row_that_hostile_ones_are_made_of_is_read() -> None:
    (one,) = read_round_evidence(columns({}))
    assert one.sketches is not None
    assert (one.sketches.own.shape, list(one.sketches.previous)) == ((2, 5, 4), ["previous-1", "previous-3"])


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (columns({}, rows=0), "sketches of no row"),
        (columns({}, rows=17), "no sketches of 17 rows"),
        (columns({}, rows=3), "no sketches of 3 rows"),
        (columns({}, rows=-1), "no sketches of -1 rows"),
        (columns({"reference_z": numbers(20)}), "under other weights"),
        (columns({"previous_z": numbers(40)}), "under other weights"),
        (columns({"previous": b"previous-3\nprevious-1"}), "in this order"),
        (columns({"previous": b"previous-1\nprevious-1"}), "in this order"),
        (columns({"previous": b"previous-1\nint8"}), "in this order"),
        (columns({"previous": b"\xff"}), "not evidence"),
        (columns({}, step=NO_STEP), "with a replay"),
        (columns({}, step=-2), "with a replay"),
        (columns({"chunk_sizes": b"", "theta": b"", "gradient": b""}), "without a replay"),
        (columns({"chunk_sizes": np.array([5, -1], np.int32).tobytes()}), "not of the chunks"),
        (columns({"chunk_sizes": np.array([4, 0], np.int32).tobytes()}), "not of the chunks"),
        (columns({"chunk_sizes": np.array([2, 1], np.int32).tobytes()}), "not of the chunks"),
        (columns({"chunk_sizes": np.array([2**31 - 1, 2**31 - 1], np.int32).tobytes()}), "not of the chunks"),
        (columns({"gradient": numbers(3)}), "at other places"),
        (columns({"common_after": numbers(5)}), "6 losses before and 5 after"),
        (columns({"own_before": b""}), "0 losses before and 6 after"),
        (columns({"own_before": numbers(MAX_SEQUENCES + 1)}), "column"),
        (columns({"theta": numbers(MAX_CHUNK * MAX_CHUNKS + 1)}), "column"),
        (columns({"z": numbers(41)}), "column"),
        (columns({"numerics_class": b"x" * 129}), "column"),
        (columns({}, count=2), "stands twice"),
    ],
)
def test_columns_that_no_writer_writes_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolViolationError, match=complaint):
        read_round_evidence(data)


def test_mutants_are_refused_or_read_and_nothing_else() -> None:
    raw, rng = columns({}), random.Random(5)
    refused = 0
    for _ in range(300):
        mutant = bytearray(raw)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(mutant))
            if rng.random() < 0.3:
                del mutant[at : at + rng.choice([1, 4, 32])]
            else:
                mutant[at] ^= 1 << rng.randrange(8)
        try:
            read_round_evidence(bytes(mutant))
        except ProtocolViolationError:
            refused += 1
    assert refused > 150


# --- does it fit? -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Revealed, OpenedStep, MinerMeasured]:
    """A real file, and what a real model measured of it."""
    network = GradientNetwork(tmp_path_factory.mktemp("round"), SPEC, miners=1, validators=0)
    played = play_round(network, ["miner-0"], Window(30))
    revealed, scene = played.revealed("miner-0"), played.scene
    opened = opened_step(scene.layout, revealed, scene.theta)
    assert opened is not None
    common = losses_at(scene, scene.theta, common_rows(scene, played.challenge.select_seed, 5))
    own = losses_at(scene, scene.theta, own_rows(scene, revealed))
    one = MinerMeasured(
        hotkey=revealed.sealer.hotkey,
        content_digest=revealed.sealer.seal.content_digest,
        numerics_class=CLASS,
        sketches=sketches_of(scene, revealed),
        step=opened.step,
        replayed=step_of(scene, revealed, opened),
        common=Scored(common, common),
        own=Scored(own, own),
    )
    (read,) = read_round_evidence(write_round_evidence([one]))
    return revealed, opened, read


def test_honest_evidence_fits_its_file(case: tuple[Revealed, OpenedStep, MinerMeasured]) -> None:
    revealed, opened, one = case
    require_measured_of(revealed, opened, one, SPEC)
    require_measured_of(revealed, opened, MinerMeasured(one.hotkey, one.content_digest, CLASS), SPEC)
    require_one_baseline([one, replace(one, common=None), one])


def of_sketches(
    change: Callable[[Array], Array],
) -> Change:
    def changed(one: MinerMeasured) -> MinerMeasured:
        assert one.sketches is not None
        return replace(one, sketches=replace(one.sketches, own=change(one.sketches.own.copy())))

    return changed


def of_step(
    theta: Callable[[Array], Array] = lambda part: part,
    gradient: Callable[[Array], Array] = lambda part: part,
) -> Change:
    def changed(one: MinerMeasured) -> MinerMeasured:
        assert one.replayed is not None
        assert one.replayed.gradient is not None
        step = MeasuredStep([theta(p) for p in one.replayed.theta], [gradient(p) for p in one.replayed.gradient])
        return replace(one, replayed=step)

    return changed


def of_losses(name: str, loss: int, count: int = 0) -> Change:
    def changed(one: MinerMeasured) -> MinerMeasured:
        before = getattr(one, name).before.copy()[: -count or None]
        before[-1] = loss
        losses = Scored(before, before)
        return replace(one, common=losses) if name == "common" else replace(one, own=losses)

    return changed


def one_nan(z: Array) -> Array:
    z[0, 0, 0] = np.nan
    return z


def no_row(z: Array) -> Array:
    z[0] = np.nan
    return z


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda one: replace(one, content_digest=Digest(b"x" * 32)), "another file"),
        (lambda one: replace(one, hotkey=Hotkey(b"x" * 32)), "another file"),
        (lambda one: replace(one, numerics_class="fp8"), "numerics class"),
        (of_sketches(lambda z: z[1:]), "of shape"),
        (of_sketches(lambda z: z[:, 1:]), "of shape"),
        (of_sketches(one_nan), "z that no measurement has"),
        (of_sketches(lambda z: z + np.inf), "z that no measurement has"),
        (
            lambda one: replace(one, sketches=MeasuredSketches(one.sketches.own, None, {"previous-1": one.sketches.own})),
            "without those",
        ),
        (lambda one: replace(one, sketches=replace(one.sketches, reference=one.sketches.own[1:])), "of shape"),
        (lambda one: replace(one, step=(one.step + 1) % 4), "drawn was"),
        (of_step(theta=lambda part: part[1:]), "other chunks"),
        (of_step(theta=lambda part: np.nextafter(part, np.float32(9))), "not those that were opened"),
        (of_step(gradient=lambda part: part[1:]), "other chunks"),
        (of_step(gradient=lambda part: part * np.float32(np.nan)), "not finite"),
        (of_step(gradient=lambda part: part + np.float32(SPEC.clip / MICRO)), "longer than the clip"),
        (of_losses("common", -1), "common data below zero"),
        (of_losses("own", -(2**31)), "own data below zero"),
        (of_losses("common", 1, 1), "5 and 5 losses on common data, 6"),
        (lambda one: replace(one, common=None), "without those on common"),
    ],
)
def test_evidence_of_numbers_that_no_measurement_has_is_refused(
    case: tuple[Revealed, OpenedStep, MinerMeasured], change: Change, complaint: str
) -> None:
    revealed, opened, one = case
    with pytest.raises(ProtocolViolationError, match=complaint):
        require_measured_of(revealed, opened, change(one), SPEC)


def test_what_a_broken_checkpoint_gives_is_a_measurement(case: tuple[Revealed, OpenedStep, MinerMeasured]) -> None:
    revealed, opened, one = case
    assert one.replayed is not None
    for change in (of_sketches(no_row), of_losses("own", LARGEST_LOSS)):
        require_measured_of(revealed, opened, change(one), SPEC)
    require_measured_of(revealed, opened, replace(one, replayed=replace(one.replayed, gradient=None)), SPEC)


def test_a_replay_of_a_file_whose_coin_did_not_fall_is_refused(case: tuple[Revealed, OpenedStep, MinerMeasured]) -> None:
    revealed, _, one = case
    with pytest.raises(ProtocolViolationError, match="coin did not fall"):
        require_measured_of(revealed, None, one, SPEC)


def test_two_baselines_of_one_round_contradict_each_other(case: tuple[Revealed, OpenedStep, MinerMeasured]) -> None:
    one = case[2]
    with pytest.raises(ProtocolViolationError, match="losses before"):
        require_one_baseline([one, of_losses("common", 7)(one)])


def test_a_round_of_which_nothing_was_measured_has_evidence_too() -> None:
    assert read_round_evidence(write_round_evidence([])) == []
