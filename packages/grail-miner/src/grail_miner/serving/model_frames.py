"""What a node and its model process say to each other, in the frames of `grail_core.child_process.frames`.

Rows go over as int32 tokens with what they are drawn by, and come back as tokens; an answer's choices go over to be proved, and
come back as sketches and log-probabilities. No key and no text. The parent takes no more than what it asked for can need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from grail_core.child_process.frames import FrameError, Payload, Taker, joined, pack, unpack
from grail_core.generation.base import GenerationRequest
from grail_core.inference.answers import sketched_positions
from grail_core.protocol.constants import SKETCH_BYTES_PER_POSITION
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest
from grail_miner.serving.models import Drawn, HeldModel, ModelToHold, NewRow, RowId, ToProve

if TYPE_CHECKING:
    from grail_core.proof.batch import RolloutProof

MAX_DRAWN_BYTES: Final = 4 << 20
"""Of one burst: of 64 rows, 8,192 tokens each."""


class Kind(IntEnum):
    READY = 1  # the process has imported what it needs and can use its device
    HOLD = 2
    HELD = 3
    RELEASE = 4
    RELEASED = 5
    ADVANCE = 6
    DRAWN = 7
    PROVE = 8
    PROVED = 9
    FAULT = 10  # the job's answer is an error


def pack_model(wanted: ModelToHold) -> Payload:
    return pack(
        {
            "container": wanted.container_id.hex(),
            "folder": str(wanted.folder),
            "root": wanted.weights_root.hex(),
            "ends": sorted(wanted.end_tokens),
            "policy": asdict(wanted.policy),
            "vocabulary": wanted.vocabulary_size,
            "context": wanted.context_length,
        }
    )


def model_of(payload: memoryview) -> ModelToHold:
    told, _ = unpack(payload)
    return ModelToHold(
        container_id=bytes.fromhex(told["container"]),
        folder=Path(told["folder"]),
        weights_root=bytes.fromhex(told["root"]),
        end_tokens=frozenset(told["ends"]),
        policy=GenerationPolicy(**told["policy"]),
        vocabulary_size=told["vocabulary"],
        context_length=told["context"],
    )


def pack_held(held: HeldModel) -> Payload:
    return pack(asdict(held))


def held_of(told: Mapping[str, Any]) -> HeldModel:
    """Raises FrameError."""
    proof, generation = told.get("proof_class"), told.get("generation_class")
    if not isinstance(proof, str) or not isinstance(generation, str):
        raise FrameError("did not say what it holds")
    return HeldModel(proof, generation)


def pack_rows(rows: Sequence[NewRow], cancelled: Sequence[RowId], stopped: Sequence[RowId]) -> Payload:
    told = [
        {
            "id": row.id,
            "container": row.container_id.hex(),
            "prompt": len(row.request.prompt),
            "seed": row.request.sampling_seed,
            "policy": None if row.request.policy is None else asdict(row.request.policy),
        }
        for row in rows
    ]
    leaving = {"cancelled": list(cancelled), "stopped": list(stopped)}
    return pack({"rows": told, **leaving}, joined([row.request.prompt for row in rows], np.int32))


def rows_of(payload: memoryview) -> tuple[list[NewRow], list[RowId], list[RowId]]:
    told, data = unpack(payload)
    rows = []
    for one, prompt in zip(
        told["rows"], Taker(data).split([one["prompt"] for one in told["rows"]], np.int32) if told["rows"] else (), strict=True
    ):
        policy = None if one["policy"] is None else GenerationPolicy(**one["policy"])
        request = GenerationRequest(tuple(prompt.tolist()), one["seed"], policy)
        rows.append(NewRow(RowId(one["id"]), bytes.fromhex(one["container"]), request))
    return rows, [RowId(one) for one in told["cancelled"]], [RowId(one) for one in told["stopped"]]


def pack_drawn(drawn: Sequence[Drawn]) -> Payload:
    """Without `failed`: in that process no row fails alone."""
    told = {"rows": [[one.id, len(one.tokens), one.finished] for one in drawn]}
    return pack(told, joined([one.tokens for one in drawn], np.int32))


def drawn_of(payload: memoryview) -> list[Drawn]:
    """Raises FrameError."""
    told, data = unpack(payload)
    try:
        rows = [(RowId(int(one)), int(length), bool(finished)) for one, length, finished in told["rows"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError("did not say what it drew") from error
    take = Taker(data)
    return [
        Drawn(one, tuple(take.array((length,), np.int32).tolist()) if length > 0 else (), finished)
        for one, length, finished in rows
    ]


def pack_job(job: ToProve) -> Payload:
    told = {
        "container": job.container_id.hex(),
        "network": job.network_id.hex(),
        "sketch": job.sketch_seed.hex(),
        "prompt": len(job.prompt),
        "completions": [len(one) for one in job.completions],
        "logprobs": job.logprobs,
        "rows": list(job.rows),
    }
    return pack(told, joined([job.prompt, *job.completions], np.int32))


def job_of(payload: memoryview) -> ToProve:
    told, data = unpack(payload)
    prompt, *completions = Taker(data).split([told["prompt"], *told["completions"]], np.int32)
    return ToProve(
        container_id=bytes.fromhex(told["container"]),
        network_id=Digest(bytes.fromhex(told["network"])),
        sketch_seed=Digest(bytes.fromhex(told["sketch"])),
        prompt=tuple(prompt.tolist()),
        completions=tuple(tuple(one.tolist()) for one in completions),
        logprobs=told["logprobs"],
        rows=tuple(RowId(row) for row in told["rows"]),
    )


def proved_bytes(job: ToProve) -> int:
    """Of the answer, to the byte."""
    return sum(_proof_bytes(job, len(completion)) for completion in job.completions)


def pack_proofs(proofs: Sequence[RolloutProof]) -> Payload:
    return [part for proof in proofs for part in (proof.sketches, proof.logprobs.astype("<f4").tobytes())]


def proofs_of(payload: memoryview, job: ToProve) -> list[RolloutProof]:
    """Raises FrameError: another length."""
    from grail_core.proof.batch import RolloutProof

    take = Taker(payload)
    proofs = []
    for completion in job.completions:
        sketches = take.array((_sketch_bytes(job, len(completion)),), np.uint8).tobytes()
        proofs.append(RolloutProof(sketches, take.array((len(completion) if job.logprobs else 0,), np.float32)))
    return proofs


def _sketch_bytes(job: ToProve, length: int) -> int:
    return SKETCH_BYTES_PER_POSITION * sketched_positions(len(job.prompt), length)


def _proof_bytes(job: ToProve, length: int) -> int:
    return _sketch_bytes(job, length) + (4 * length if job.logprobs else 0)
