"""From settings to a running miner: where a deployment's mistakes are found before any window is lost to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grail_core.errors import ChainError, CheckpointError, StorageError
from grail_core.examination.checkpoint import require_this_network
from grail_core.examination.deployment import require_start
from grail_core.examination.known import MINER
from grail_core.examination.watching import OwnStanding, watched
from grail_core.generation.base import Generator
from grail_core.keys import ss58
from grail_core.participant.classes import require_covered
from grail_core.participant.participant import Participant
from grail_core.participant.pinned import table_in_force
from grail_core.participant.round_models import RoundModels
from grail_core.participant.settings import Settings
from grail_core.participant.waiting import Stopping
from grail_core.proof.calibration import Shape
from grail_core.storage.retention import Retention, openings, seals, updates, window_files
from grail_core.telemetry import get_logger, run_summary
from grail_core.telemetry.run_summary import said_at_the_end
from grail_envs.bound import BoundEnvironments
from grail_envs.corpus.opening import BoundCorpora
from grail_envs.examination import require_work
from grail_miner.equipment import SERVERS, engine_python, equipped, numerics_classes, require_room, visible_gpus
from grail_miner.gradient.service import GradientMiner
from grail_miner.gradient.state import GradientState
from grail_miner.gradient.training import CorpusOf, Training
from grail_miner.layout import Layout, plan
from grail_miner.limits import MiningLimits
from grail_miner.live.view import live_view
from grail_miner.metrics import TABLE
from grail_miner.mining import Checkpoints, EnvironmentOf, Mining
from grail_miner.service import MinerService

log = get_logger(__name__)

_LOOK_S = 0.2  # at the stop

MiningFactory = Callable[[Participant, Checkpoints, EnvironmentOf, int], Mining]


def honest_mining(
    participant: Participant,
    checkpoint: Checkpoints,
    environment_of: EnvironmentOf,
    groups_per_batch: int,
) -> Mining:
    return Mining(participant.signer, checkpoint, environment_of, groups_per_batch)


RoundMinerFactory = Callable[[Participant, RoundModels, CorpusOf, GradientState, int | None], GradientMiner]


def honest_round_miner(
    participant: Participant, models: RoundModels, corpus_of: CorpusOf, state: GradientState, batch: int | None
) -> GradientMiner:
    return GradientMiner(participant, Training(participant.signer, models, corpus_of), state, batch)


def run_miner(
    settings: Settings,
    stopping: Stopping,
    *,
    windows: int | None,
    limits: MiningLimits,
    mining_of: MiningFactory = honest_mining,
    trace_dir: Path | None = None,
    live: bool = False,
    batch_sequences: int | None = None,
    round_miner_of: RoundMinerFactory = honest_round_miner,
    standing: OwnStanding | None = None,
) -> int:
    """Join the network and mine until stopped, with a picture on a terminal if `live`. Returns the number of windows mined.

    `standing`: how this hotkey stands, for its metrics.
    """
    visible = visible_gpus()
    opened = require_start(settings, MINER, lambda: _plan_of_engine(settings, visible))
    layout = plan(settings, visible)
    participant = Participant.from_settings(settings, package="grail-miner", opened=opened)
    require_this_network(participant)
    with (
        participant.state.held(),
        watched(participant, settings, MINER, TABLE, standing),
        equipped(settings, layout, participant) as equipment,
    ):
        neuron = participant.join(settings)
        about: dict[str, Any] = {
            "hotkey": ss58(participant.signer.hotkey),
            "uid": neuron.uid,
            "network": participant.params.name,
            "backend": layout.backend,
            "why": layout.why,
            "proofs": f"{layout.workers.kind}: {', '.join(layout.workers.devices)}",
        }
        log.event("miner_started", **about)
        _require_covered(participant, layout, settings)
        for note in layout.notes:
            log.warning("%s", note)
        if not layout.in_process:
            _require_room(participant, settings.pipeline_max_model_len)
        mining = mining_of(participant, equipment.checkpoints, BoundEnvironments(settings.data_dir), limits.groups_per_batch)
        mining.generator, mining.prover = equipment.generator, equipment.prover
        own, windows_kept = ss58(participant.signer.hotkey), settings.keep_window_files
        kept = [kind(own, windows_kept) for kind in (window_files, seals, updates, openings)]
        service = MinerService(
            participant,
            mining,
            Retention(participant.own_store, kept),
            max_groups=limits.max_groups,
            safety_blocks=settings.miner_safety_blocks,
            trace_dir=trace_dir,
            gradient=lambda: gradient_miner(participant, settings, batch_sequences, round_miner_of),
        )
        try:
            with (
                said_at_the_end(log, "miner_stopped", run_summary.MINER) as summary,
                stopping() as stop,
                live_view(live, service, about),
                no_start_outlives(stop, mining.generator),
            ):
                summary.windows = mined = service.run(stop, windows)
        finally:
            mining.close()
    return mined


def _plan_of_engine(settings: Settings, visible: int) -> None:
    """Raises ProtocolViolationError, ConfigurationError: no layout follows from the settings, or its engine is not here."""
    layout = plan(settings, visible)
    if layout.url is None and layout.backend in SERVERS:
        engine_python(settings, layout.backend)


def gradient_miner(
    participant: Participant, settings: Settings, batch_sequences: int | None, factory: RoundMinerFactory
) -> GradientMiner:
    """What this hotkey does in rounds of gradient work: made when the first one comes."""
    models = RoundModels(participant.checkpoints, device=settings.device)
    corpora = BoundCorpora(settings.data_dir, lambda: participant.checkpoints.bucket().store)
    return factory(participant, models, corpora, GradientState(participant.state.root / "gradient"), batch_sequences)


@contextmanager
def no_start_outlives(stop: threading.Event, generator: Generator) -> Iterator[None]:
    """An engine that is being started or rolled when the stop comes is not waited for, which may take minutes; one that serves
    ends what it has in hand by itself."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_S):
            if stop.is_set():
                if generator.version is None:
                    log.event("engine_start_left", reason="stopped")
                    generator.close()
                return

    watcher = threading.Thread(target=watch, name="stop-engine", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _require_covered(participant: Participant, layout: Layout, settings: Settings) -> None:
    """The table that the checkpoint in force pins against how this layout computes; what cannot be asked now is asked when
    each checkpoint is rolled to.

    Raises:
        CheckpointError: the checkpoint pins no table that this network follows.
        ConfigurationError: GRAIL_CALIBRATION is another table than the checkpoint's.
        ProtocolViolationError: the network would refuse every seal of this miner.
        EnvironmentUnavailableError: the checkpoint's environment is not here.
    """
    from grail_core.checkpoints.fetch import model_files
    from grail_core.model.described import ModelDescription

    found = table_in_force(participant)
    if found is None:
        return
    manifest, pinned = found
    require_work(settings, manifest)
    model = ModelDescription.of(model_files(manifest, participant.checkpoints.bucket()))
    shape = Shape(model.layers, model.hidden_size)
    require_covered(*numerics_classes(layout, participant.params), pinned.table, shape, participant.params)


def _require_room(participant: Participant, max_model_len: int) -> None:
    """What cannot be asked now does not keep a miner from starting: each checkpoint is asked about when it is rolled to."""
    try:
        require_room(participant, max_model_len)
    except (CheckpointError, ChainError, StorageError) as error:
        log.event("room_not_asked", reason=error.what)
