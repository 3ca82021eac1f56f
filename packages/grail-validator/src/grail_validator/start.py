"""From settings to a running validator: where a deployment's mistakes are found before any window is lost to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grail_core.examination.checkpoint import require_this_network
from grail_core.examination.deployment import require_start
from grail_core.examination.known import VALIDATOR
from grail_core.examination.watching import watched
from grail_core.keys import ss58
from grail_core.participant.classes import require_class
from grail_core.participant.deployment import require_permit
from grail_core.participant.participant import Participant
from grail_core.participant.pinned import table_in_force
from grail_core.participant.settings import Settings
from grail_core.participant.waiting import Stopping
from grail_core.protocol.types import Block
from grail_core.storage.retention import Retention, evidence, shared_files
from grail_core.telemetry import get_logger, run_summary
from grail_core.telemetry.run_summary import said_at_the_end
from grail_envs.bound import BoundEnvironments
from grail_envs.examination import require_work
from grail_validator.compared_models import ComparedModels
from grail_validator.first_sight import FirstSight
from grail_validator.gradient.rounds import GradientRounds
from grail_validator.kinds import WindowKinds
from grail_validator.ledger import Ledger
from grail_validator.metrics import TABLE
from grail_validator.model_process import ModelProcess
from grail_validator.service import ValidatorService

if TYPE_CHECKING:
    from grail_validator.gradient.service import GradientValidator

log = get_logger(__name__)


def open_ledger(settings: Settings, participant: Participant) -> Ledger:
    """This hotkey's ledger; one that an earlier version kept in the cache is brought over."""
    path, network_id, hotkey = participant.state.ledger, participant.network_id, participant.signer.hotkey
    Ledger.adopt(settings.cache_dir / "validator" / "ledger.sqlite", path, network_id=network_id, hotkey=hotkey)
    return Ledger(path, network_id=network_id, hotkey=hotkey)


def gradient_validator(participant: Participant, ledger: Ledger, settings: Settings, kinds: WindowKinds) -> GradientValidator:
    """What judges rounds of gradient work: imported and made when the first one comes, since it computes in this process."""
    from grail_core.participant.round_models import RoundModels
    from grail_envs.corpus.opening import BoundCorpora
    from grail_validator.gradient.service import GradientValidator

    models = RoundModels(participant.checkpoints, device=settings.device)
    corpora = BoundCorpora(settings.data_dir, lambda: participant.checkpoints.bucket().store)
    return GradientValidator(participant, ledger, models, corpora, kinds)


def run_validator(settings: Settings, stopping: Stopping, *, windows: int | None, compared: ComparedModels) -> int:
    """Join the network and judge until stopped. Returns the number of windows scored."""
    opened = require_start(settings, VALIDATOR)
    participant = Participant.from_settings(settings, package="grail-validator", opened=opened)
    with (
        participant.state.held(),
        watched(participant, settings, VALIDATOR, TABLE),
        ModelProcess(participant.checkpoints, device=settings.device) as models,
    ):
        models.start()  # it imports torch while this process joins
        return _run(participant, settings, stopping, models, windows=windows, compared=compared)


def _run(
    participant: Participant,
    settings: Settings,
    stopping: Stopping,
    models: ModelProcess,
    *,
    windows: int | None,
    compared: ComparedModels,
) -> int:
    require_this_network(participant)  # before a bucket is committed
    neuron = participant.join(settings)
    require_permit(neuron, settings, participant.chain.netuid)
    require_class(models, "validator", participant.params)
    if (found := table_in_force(participant)) is not None:
        require_work(settings, found[0])
    models.require_ready()
    ledger = open_ledger(settings, participant)
    if compared.narrowed:
        log.warning(
            "proofs are not compared with %s, as other validators of this network do: what they reject is accepted here, "
            "and verdicts that differ from theirs cost trust",
            compared.narrowed,
        )
    log.event("validator_started", hotkey=ss58(participant.signer.hotkey), uid=neuron.uid, network=participant.params.name)
    rounds = GradientRounds(participant, lambda kinds: gradient_validator(participant, ledger, settings, kinds))
    service = ValidatorService(
        participant=participant,
        ledger=ledger,
        first_sight=FirstSight(participant, ledger, rounds),
        checkpoint=models,
        environment_of=BoundEnvironments(settings.data_dir),
        compared=compared,
        gradient=rounds,
        retention=Retention(
            participant.own_store,
            [
                shared_files(settings.keep_window_files, lambda window: participant.time_of_block_ms(Block(window))),
                evidence(settings.keep_evidence),
            ],
        ),
    )
    with said_at_the_end(log, "validator_stopped", run_summary.VALIDATOR) as summary, stopping() as stop:
        summary.windows = scored = service.run(stop, windows)
    return scored
