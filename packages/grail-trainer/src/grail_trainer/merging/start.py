"""From settings to a running aggregator: what `grail-trainer run` is in a network whose checkpoints ask for gradient work."""

from __future__ import annotations

from grail_core.examination.known import TRAINER
from grail_core.examination.watching import watched
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.participant.round_models import RoundModels
from grail_core.participant.settings import Settings
from grail_core.participant.waiting import Stopping
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.telemetry import get_logger, run_summary
from grail_core.telemetry.run_summary import said_at_the_end
from grail_core.work import Work, work_of
from grail_envs.corpus.opening import BoundCorpora
from grail_trainer.merging.service import Aggregator
from grail_trainer.metrics import TABLE

log = get_logger(__name__)


def has_gradient_work(participant: Participant) -> bool:
    """Does the newest checkpoint of this trainer's bucket ask for it? Errors: CheckpointError, StorageError."""
    head = participant.own_checkpoints.sequence().head
    return head is not None and work_of(head) is Work.GRADIENT


def run_aggregator(participant: Participant, settings: Settings, stopping: Stopping, *, rounds: int | None) -> int:
    """Merge rounds until stopped, `rounds` are merged, or the network turns to other work. Returns how many were merged.

    Raises:
        ConfigurationError, NotRegisteredError: this participant cannot be the network's trainer.
        EnvironmentUnavailableError: the corpus of the guard is not here.
    """
    with participant.state.held(), watched(participant, settings, TRAINER, TABLE):
        neuron = participant.join(settings)
        head = participant.own_checkpoints.sequence().head
        assert head is not None, "a network with gradient work has a checkpoint that says so"
        corpora = BoundCorpora(settings.data_dir)
        corpora(head.environment)
        log.event(
            "aggregator_started",
            hotkey=ss58(participant.signer.hotkey),
            uid=neuron.uid,
            network=participant.params.name,
            corpus=GradientSpec.of(head.environment).corpus,
        )
        models = RoundModels(participant.checkpoints, device=settings.device)
        aggregator = Aggregator(participant, models, corpora)
        with said_at_the_end(log, "trainer_stopped", run_summary.TRAINER) as summary, stopping() as stop:
            summary.windows = merged = aggregator.run(stop, rounds)
    return merged
