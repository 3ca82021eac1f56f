"""Evidence: what a validator measured of a file's sampled rollouts, and its signed Parquet form.

A verdict is a pure function of files, chain and beacon inputs, and evidence; so whoever holds the evidence can compute the
verdict again without a model (`verification.examine.decide`). All values are as measured: float32, never rounded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from grail_core.errors import ProtocolViolationError
from grail_core.proof.alternative_test import REFERENCE
from grail_core.protocol.constants import SKETCH_DIMENSIONS
from grail_core.protocol.types import Digest, Hotkey

F32 = npt.NDArray[np.float32]


class GradeStability(Enum):
    STABLE = "stable"  # one run that agrees with the claim, or three that agree with each other
    UNSTABLE = "unstable"  # runs differ, or one came near a limit: not counted, not trained on, not punished
    INCONCLUSIVE = "inconclusive"  # grading itself failed


@dataclass(frozen=True)
class GradeEvidence:
    reward: float
    success: bool
    stability: GradeStability


@dataclass(frozen=True)
class RolloutEvidence:
    """One sampled rollout with k challenged completion positions.

    `z` [k, 4] are the validator's unrounded sketch values at those positions; `alternatives` the same in float32 under the
    current weights and each alternative's, by name, [m, 4] at the m `alternative_positions` (the k among them), empty where
    the challenge did not draw this rollout for them; `logprob` [k] the unwarped log-probability of the claimed token (nats);
    `margin` [k] of section 4 (logits, clipped at 4).
    """

    group: int
    rollout: int
    grade: GradeEvidence
    positions: npt.NDArray[np.int32]
    z: F32
    logprob: F32
    margin: F32
    alternatives: Mapping[str, F32] = field(default_factory=dict)
    alternative_positions: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))


@dataclass(frozen=True)
class MinerEvidence:
    """All sampled rollouts of one file, in the order sampled: whole groups first, then singles.

    `numerics_class` is the validator's own; `layers` and `hidden_size` are the checkpoint model's, since a calibration
    holds for models of about the sizes it was made on.
    """

    hotkey: Hotkey
    content_digest: Digest
    rollouts: tuple[RolloutEvidence, ...]
    numerics_class: str
    layers: int
    hidden_size: int
    inconclusive: int = 0  # rollouts that could not be measured and were replaced, or not


_SCHEMA = pa.schema(
    [
        ("hotkey", pa.binary(32)),
        ("content_digest", pa.binary(32)),
        ("numerics_class", pa.string()),
        ("layers", pa.int32()),
        ("hidden_size", pa.int32()),
        ("inconclusive", pa.int32()),
        ("g", pa.int32()),
        ("r", pa.int32()),
        ("judge_reward", pa.float64()),
        ("judge_success", pa.bool_()),
        ("judge_stability", pa.string()),
        ("positions", pa.binary()),
        ("z", pa.binary()),
        ("logprob", pa.binary()),
        ("margin", pa.binary()),
        ("alternatives", pa.map_(pa.string(), pa.binary())),
        ("alternative_positions", pa.binary()),
    ]
)


def write_evidence(miners: Sequence[MinerEvidence]) -> bytes:
    """Deterministic Parquet bytes; the verdict names their SHA-256."""
    rows = [
        {
            "hotkey": bytes(miner.hotkey),
            "content_digest": bytes(miner.content_digest),
            "numerics_class": miner.numerics_class,
            "layers": miner.layers,
            "hidden_size": miner.hidden_size,
            "inconclusive": miner.inconclusive,
            "g": rollout.group,
            "r": rollout.rollout,
            "judge_reward": rollout.grade.reward,
            "judge_success": rollout.grade.success,
            "judge_stability": rollout.grade.stability.value,
            "positions": np.ascontiguousarray(rollout.positions, "<i4").tobytes(),
            "z": np.ascontiguousarray(rollout.z, "<f4").tobytes(),
            "logprob": np.ascontiguousarray(rollout.logprob, "<f4").tobytes(),
            "margin": np.ascontiguousarray(rollout.margin, "<f4").tobytes(),
            "alternatives": [
                (name, np.ascontiguousarray(rollout.alternatives[name], "<f4").tobytes())
                for name in sorted(rollout.alternatives)
            ],
            "alternative_positions": np.ascontiguousarray(rollout.alternative_positions, "<i4").tobytes(),
        }
        for miner in miners
        for rollout in miner.rollouts
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def read_evidence(data: bytes) -> list[MinerEvidence]:
    """Parse evidence; the order of miners and rollouts is the file's.

    Raises:
        ProtocolViolationError: the bytes are not evidence.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
        if not table.schema.remove_metadata().equals(_SCHEMA):
            raise ValueError("columns differ")
        rows = table.to_pylist()
        miners: dict[tuple[bytes, bytes], list[RolloutEvidence]] = {}
        files: dict[tuple[bytes, bytes], tuple[str, int, int, int]] = {}
        for row in rows:
            key = (row["hotkey"], row["content_digest"])
            files[key] = (row["numerics_class"], row["layers"], row["hidden_size"], row["inconclusive"])
            miners.setdefault(key, []).append(_rollout(row))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ProtocolViolationError(f"the bytes are not evidence: {error}") from error
    return [
        MinerEvidence(Hotkey(hotkey), Digest(digest), tuple(rollouts), *files[hotkey, digest])
        for (hotkey, digest), rollouts in miners.items()
    ]


def _rollout(row: Mapping[str, object]) -> RolloutEvidence:
    def matrix(raw: object) -> F32:
        return np.frombuffer(raw, "<f4").reshape(-1, SKETCH_DIMENSIONS)  # type: ignore[call-overload, no-any-return]

    alternatives = {name: matrix(raw) for name, raw in row["alternatives"]}  # type: ignore[attr-defined]
    positions = np.frombuffer(row["positions"], "<i4")  # type: ignore[call-overload]
    measured = np.frombuffer(row["alternative_positions"], "<i4")  # type: ignore[call-overload]
    if alternatives:
        if REFERENCE not in alternatives:
            raise ValueError(f"alternatives without {REFERENCE!r}, which they are compared with")
        if any(len(z) != len(measured) for z in alternatives.values()) or not np.isin(positions, measured).all():
            raise ValueError("alternatives at other positions than the evidence says, or without the challenged ones")
    return RolloutEvidence(
        group=row["g"],  # type: ignore[arg-type]
        rollout=row["r"],  # type: ignore[arg-type]
        grade=GradeEvidence(
            row["judge_reward"],  # type: ignore[arg-type]
            row["judge_success"],  # type: ignore[arg-type]
            GradeStability(row["judge_stability"]),
        ),
        positions=positions,
        z=matrix(row["z"]),
        logprob=np.frombuffer(row["logprob"], "<f4"),  # type: ignore[call-overload]
        margin=np.frombuffer(row["margin"], "<f4"),  # type: ignore[call-overload]
        alternatives=alternatives,
        alternative_positions=measured,
    )
