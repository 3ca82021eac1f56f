"""The validator of a `tooling.testing.network`: the shipped service, its steps called by the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.protocol.types import Block
from grail_core.storage.retention import Retention, evidence, shared_files
from grail_validator.first_sight import FirstSight
from grail_validator.ledger import Ledger
from grail_validator.models import InOneProcess
from grail_validator.service import ValidatorService
from tooling.testing.network import Network


def validator_of(network: Network, name: str, **handles: Any) -> ValidatorService:
    """The participant's service over its own ledger; a second call is the same validator started again.

    Args:
        handles: what the participant has instead of its own chain, beacon or directory.
    """
    participant = replace(network.participant(name), **handles)
    ledger = Ledger(participant.state.ledger, network_id=participant.network_id, hotkey=participant.signer.hotkey)
    return ValidatorService(
        participant=participant,
        ledger=ledger,
        first_sight=FirstSight(participant, ledger),
        retention=Retention(
            participant.own_store,
            [shared_files(8, lambda window: participant.time_of_block_ms(Block(window))), evidence(8)],
        ),
        checkpoint=InOneProcess(LiveCheckpoint(participant.checkpoints, keep=4)),
        environment_of=network.environment_of,
    )
