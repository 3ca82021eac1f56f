"""Evidence as bytes: what was measured comes back to the bit, and what no writer writes is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import (
    COLUMNS,
    MAX_ALTERNATIVES,
    GradeEvidence,
    GradeStability,
    MinerEvidence,
    RolloutEvidence,
    read_evidence,
    write_evidence,
)
from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.proof.work import YARDSTICKS, ComparedRollout, Leads, ReferenceMeasurement
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS
from grail_core.protocol.types import Digest, Hotkey


def floats(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Any 32 bits: numbers, infinities, and NaNs of every kind."""
    return rng.integers(0, 2**32, shape, dtype=np.uint64).astype(np.uint32).view(np.float32)


def reference(rng: np.random.Generator, k: int) -> ReferenceMeasurement:
    return ReferenceMeasurement(floats(rng, k, 4), *(floats(rng, k) for _ in range(5)))


def compared(rng: np.random.Generator, m: int, weights: list[str], samplings: list[str]) -> ComparedRollout:
    def leads() -> Leads:
        return Leads(floats(rng, m), floats(rng, m), rng.integers(-1, 2**31 - 1, m).astype(np.int32))

    return ComparedRollout(
        tuple(range(m)),
        {name: floats(rng, m, 4) for name in weights},
        {name: leads() for name in samplings},
        floats(rng, m),
        floats(rng, m),
    )


def rollout(
    rng: np.random.Generator, k: int, beside: ReferenceMeasurement | None, others: ComparedRollout | None
) -> RolloutEvidence:
    return RolloutEvidence(
        group=0,
        rollout=0,
        grade=GradeEvidence(1.0, True, GradeStability.STABLE),
        positions=np.arange(k, dtype=np.int32),
        z=floats(rng, k, 4),
        logprob=floats(rng, k),
        margin=floats(rng, k),
        reference=beside,
        compared=others,
    )


def of(*rollouts: RolloutEvidence) -> MinerEvidence:
    numbered = tuple(replace(one, rollout=at) for at, one in enumerate(rollouts))
    return MinerEvidence(Hotkey(b"h" * 32), Digest(b"c" * 32), numbered, "bf16-sdpa-cpu-transformers", 2, 64)


NAMES = st.lists(st.sampled_from([f"name-{n}" for n in range(MAX_ALTERNATIVES)]), unique=True)


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 60), NAMES, NAMES, st.booleans(), st.booleans())
def test_what_was_measured_comes_back_to_the_bit(
    seed: int, k: int, m: int, weights: list[str], samplings: list[str], refers: bool, compares: bool
) -> None:
    rng = np.random.default_rng(seed)
    beside = reference(rng, k) if refers else None
    others = compared(rng, m, [*YARDSTICKS, *weights] if weights else [], samplings) if compares else None
    written = of(rollout(rng, k, beside, others), rollout(rng, 1, None, None))
    (read,) = read_evidence(write_evidence([written]))
    for one, again in zip(written.rollouts, read.rollouts, strict=True):
        assert parts_of(again) == parts_of(one)
    assert write_evidence([read]) == write_evidence([written])


def parts_of(one: RolloutEvidence) -> dict[str, bytes]:
    """Every number by its place, as bytes: NaN is no equal of itself."""
    found = {name: np.asarray(getattr(one, name)).tobytes() for name in ("positions", "z", "logprob", "margin")}
    if one.reference is not None:
        found |= {f"reference {name}": value.tobytes() for name, value in vars(one.reference).items()}
    if one.compared is not None:
        found |= {f"z {name}": value.tobytes() for name, value in one.compared.z.items()}
        found |= {
            f"{name} {part}": value.tobytes()
            for name, leads in one.compared.leads.items()
            for part, value in vars(leads).items()
        }
        found["compared positions"] = np.asarray(one.compared.positions).tobytes()
        found |= {"noise": one.compared.noise.tobytes(), "spread": one.compared.spread.tobytes()}
    return found


def columns(changes: Mapping[str, bytes]) -> bytes:
    """One row of evidence with every column of it empty but those named; the fixed ones say something."""
    fixed: dict[str, Values] = {
        "hotkey": [b"h" * 32],
        "content_digest": [b"c" * 32],
        "judge_reward": np.zeros(1),
        "judge_success": np.zeros(1, np.bool_),
        "judge_stability": [b"stable"],
    }
    fixed |= {name: np.zeros(1, np.int32) for name in ("layers", "hidden_size", "inconclusive", "g", "r")}
    varying: dict[str, Values] = {column.name: [b""] for column in COLUMNS if column.name not in fixed}
    return write_parquet(COLUMNS, {**varying, **fixed, **{name: [value] for name, value in changes.items()}}, {})


def numbers(count: int) -> bytes:
    return np.zeros(count, np.float32).tobytes()


WHOLE_REFERENCE = {
    "reference_z": numbers(8),
    **{f"reference_{name}": numbers(2) for name in ("logprobs", "margins", "twins", "noise", "spread")},
}
WHOLE_COMPARISON = {
    "compared_positions": numbers(3),
    "compared_noise": numbers(3),
    "compared_spread": numbers(3),
    "sketched_under": b"current\nint8\nown",
    "compared_z": numbers(3 * 3 * 4),
    "drawn_under": b"int8",
    **{f"lead_{name}": numbers(3) for name in ("own", "other", "rival")},
}


def test_the_rows_that_hostile_ones_are_made_of_are_read() -> None:
    (miner,) = read_evidence(columns(WHOLE_REFERENCE | WHOLE_COMPARISON))
    (one,) = miner.rollouts
    assert one.reference is not None
    assert one.compared is not None
    assert (list(one.compared.z), list(one.compared.leads)) == (["current", "int8", "own"], ["int8"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        *(
            (lambda row, name=name: row | {name: row[name] + numbers(4)}, "reference at other positions")
            for name in WHOLE_REFERENCE
        ),
        (lambda row: row | {"compared_noise": numbers(2)}, "other positions than it says"),
        (lambda row: row | {"compared_spread": b""}, "other positions than it says"),
        (lambda row: row | {"compared_z": numbers(3 * 4)}, "other positions than it says"),
        (lambda row: row | {"sketched_under": b"current"}, "other positions than it says"),
        (lambda row: row | {"sketched_under": b"int7\nint8\nown"}, "without current and own"),
        (lambda row: row | {"sketched_under": b"current\nint8\nint9"}, "without current and own"),
        (lambda row: row | {"sketched_under": b"int8\ncurrent"}, "not ascending"),
        (lambda row: row | {"sketched_under": b"current\ncurrent"}, "not ascending"),
        (lambda row: row | {"sketched_under": b"\ncurrent"}, "not ascending"),
        (lambda row: row | {"drawn_under": b"\xff"}, "not evidence"),
        (lambda row: row | {"drawn_under": b""}, "leads at other positions"),
        (lambda row: row | {"lead_rival": numbers(2)}, "leads at other positions"),
        (lambda row: row | {"lead_own": numbers(6)}, "leads at other positions"),
        (lambda row: dict.fromkeys(row, b"") | {"drawn_under": b"int8"}, "at no position"),
        (lambda row: dict.fromkeys(row, b"") | {"sketched_under": b"current"}, "at no position"),
        (lambda row: row | {"drawn_under": "\n".join(f"{n:02}" for n in range(19)).encode()}, "more than 16"),
    ],
)
def test_columns_that_no_writer_writes_are_refused(
    change: Callable[[dict[str, bytes]], dict[str, bytes]], complaint: str
) -> None:
    with pytest.raises(ProtocolViolationError, match=complaint):
        read_evidence(columns(change(WHOLE_REFERENCE | WHOLE_COMPARISON)))


@pytest.mark.parametrize(
    "changes",
    [
        {"compared_positions": numbers(ALTERNATIVE_POSITIONS + 1)},
        {"compared_z": numbers((MAX_ALTERNATIVES + 2) * ALTERNATIVE_POSITIONS * 4 + 4)},
        {"lead_own": numbers(MAX_ALTERNATIVES * ALTERNATIVE_POSITIONS + 1)},
        {"sketched_under": b"x" * (128 * (MAX_ALTERNATIVES + 2) + 1)},
        {"reference_z": numbers(2)},  # no whole sketch
    ],
)
def test_a_value_longer_than_any_comparison_is_refused_before_it_is_looked_at(changes: dict[str, bytes]) -> None:
    with pytest.raises(ProtocolViolationError):
        read_evidence(columns(changes))
