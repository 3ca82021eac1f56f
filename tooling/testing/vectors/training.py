"""Vectors of what a trainer publishes of its training: logs, anchors, and the digest of a training state."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.findings import Finding, Outcome, decimal
from grail_core.protocol.manifest import ObjectRef
from grail_core.protocol.reading import Json
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_trainer.data.batch import BatchMember, DroppedGroup
from grail_trainer.learning.optimiser import state_digest
from grail_trainer.publishing.machine_facts import MachineFacts
from grail_trainer.publishing.state_anchors import Anchor
from grail_trainer.publishing.training_log import FileName, LoggedAlarm, LogLink, PublishedCheckpoint, TrainingLog
from tooling.testing.vectors.source import Source

SETTINGS: dict[str, dict[str, Json]] = {
    "optimiser": {"learning_rate": "0.001", "warmup_steps": 12},
    "update": {"epochs": 3, "kl_coefficient": "0.01", "loss": "dapo"},
}


def training(source: Source) -> Json:
    network, trainer = Digest(source.bytes()), Hotkey(source.bytes())
    log = _log(source, network, trainer)
    first = dataclasses.replace(log, window=Window(5_000_010), number=1, previous=None, anchor=None, checkpoint=None, alarms=())
    parts = tuple(ObjectRef(size, Digest(source.bytes())) for size in (67_108_864, 1_234))
    anchor = Anchor(network, trainer, log.window, log.state_after, parts)
    return {
        "logs": [_said(one) for one in (first, log)],
        "anchors": [_said(anchor)],
        "states": [{"tensors": _tensors(state), "digest": state_digest(state)} for state in (_state(),)],
    }


def _said(value: TrainingLog | Anchor) -> Json:
    return {"body": canonical_json(value.to_json()).decode(), "digest": value.digest().hex()}


def _log(source: Source, network: Digest, trainer: Hotkey) -> TrainingLog:
    def digest() -> Digest:
        return Digest(source.bytes())

    miners = [Hotkey(source.bytes()) for _ in range(3)]
    files = [FileName(miner, digest()) for miner in miners]
    return TrainingLog(
        network_id=network,
        trainer=trainer,
        window=Window(5_000_310),
        number=10,
        origin=digest(),
        behaviour=digest(),
        reference=digest(),
        temperature="0.7",
        max_tokens=8192,
        verdicts={Hotkey(source.bytes()): digest() for _ in range(2)},
        files=(files[1], files[0]),
        missing=(files[2],),
        groups=tuple(BatchMember(file.hotkey, file.content_digest, group) for group in (0, 7) for file in files[:2]),
        dropped=(
            DroppedGroup(
                files[0].hotkey,
                files[0].content_digest,
                3,
                "proof: too far",
                (Finding("proof", Outcome.REJECT, decimal(0.5), decimal(0.3), "position error", 3, 2),),
            ),
            DroppedGroup(files[1].hotkey, files[1].content_digest, None, "no memory", own_fault=True),
        ),
        dropped_total=2,
        without_variance=5,
        settings=SETTINGS,
        machine=MachineFacts("cpu", "x86_64 AVX2", 1, 1, "3.12.3", {"torch": "2.13.0"}),
        state_before=digest(),
        state_after=digest(),
        weights_root=digest(),
        undone="",
        alarms=(LoggedAlarm("entropy", "slow", "0.1", "0.2", "entropy fell"),),
        statistics={"loss": "0.25", "steps": 12},
        previous=LogLink(Window(5_000_250), digest()),
        anchor=digest(),
        checkpoint=PublishedCheckpoint(digest(), 12, Window(5_000_370), digest()),
    )


def _state() -> dict[str, Any]:
    return {
        "master.w": torch.tensor([[1.0, -0.0], [0.5, 3.0]]),
        "moment1.w": torch.tensor([[0.25, 0.0], [0.0, 1e-8]]),
        "moment2.w": torch.zeros(2, 2),
        "scalar.kl_coefficient": torch.tensor(0.01, dtype=torch.float64),
        "steps": torch.tensor(4),
    }


def _tensors(state: dict[str, Any]) -> Json:
    return [
        {
            "name": name,
            "dtype": str(tensor.dtype),
            "shape": list(tensor.shape),
            "bytes": tensor.reshape(-1).view(torch.uint8).numpy().tobytes().hex(),
        }
        for name, tensor in sorted(state.items())
    ]
