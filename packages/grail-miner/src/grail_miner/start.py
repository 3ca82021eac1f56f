"""From settings to a running miner: where a deployment's mistakes are found before any window is lost to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.errors import ConfigurationError
from grail_core.keys import ss58
from grail_core.participant.classes import require_class
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.participant.waiting import Stopping
from grail_core.storage.retention import Retention, seals, window_files
from grail_core.telemetry import get_logger
from grail_envs.bound import BoundEnvironments
from grail_miner.limits import MiningLimits
from grail_miner.mining import EnvironmentOf, Mining
from grail_miner.service import MinerService

log = get_logger(__name__)

MiningFactory = Callable[[Participant, LiveCheckpoint, EnvironmentOf, int], Mining]


def honest_mining(
    participant: Participant,
    checkpoint: LiveCheckpoint,
    environment_of: EnvironmentOf,
    groups_per_batch: int,
) -> Mining:
    return Mining(participant.signer, checkpoint, environment_of, groups_per_batch)


def run_miner(
    settings: Settings,
    stopping: Stopping,
    *,
    windows: int | None,
    limits: MiningLimits,
    mining_of: MiningFactory = honest_mining,
    trace_dir: Path | None = None,
) -> int:
    """Join the network and mine until stopped. Returns the number of windows mined."""
    if settings.pipeline_backend != "hf":
        raise ConfigurationError(
            f"this version generates in process only, not with {settings.pipeline_backend}",
            where="GRAIL_PIPELINE_BACKEND",
            hint="set it to hf",
        )
    participant = Participant.from_settings(settings)
    with participant.state.held():
        checkpoint = LiveCheckpoint(participant.checkpoints, device=settings.device)
        require_class(checkpoint, "proof", participant.params)
        require_class(checkpoint, "generation", participant.params)
        neuron = participant.join(settings)
        log.event("miner_started", hotkey=ss58(participant.signer.hotkey), uid=neuron.uid, network=participant.params.name)
        mining = mining_of(participant, checkpoint, BoundEnvironments(settings.data_dir), limits.groups_per_batch)
        own, windows_kept = ss58(participant.signer.hotkey), settings.keep_window_files
        kept = [window_files(own, windows_kept), seals(own, windows_kept)]
        service = MinerService(
            participant,
            mining,
            Retention(participant.own_store, kept),
            max_groups=limits.max_groups,
            safety_blocks=settings.miner_safety_blocks,
            trace_dir=trace_dir,
        )
        with stopping() as stop:
            mined = service.run(stop, windows)
        log.event("miner_stopped", windows=mined)
    return mined
