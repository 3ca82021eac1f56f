"""From settings to a running trainer: where a deployment's mistakes are found, and where a restart finds its place again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.checkpoints.publish import CheckpointParts
from grail_core.checkpoints.safety import read_model_files
from grail_core.environment import Environment
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.examination.checkpoint import require_this_network
from grail_core.examination.deployment import require_start
from grail_core.examination.known import TRAINER
from grail_core.examination.watching import watched
from grail_core.generation.agreement import check_agreement
from grail_core.generation.defaults import sampling_defaults
from grail_core.keys import ss58
from grail_core.model.architecture import context_length
from grail_core.model.errors import no_model_folder
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.model.transformers_prompts import require_transformers_agrees
from grail_core.participant.deployment import require_trainer_hotkey
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.participant.waiting import Stopping
from grail_core.protocol import window_of
from grail_core.protocol.constants import MAX_PROMPT_TOKENS, WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.policy import completion_limit
from grail_core.protocol.types import Window
from grail_core.telemetry import get_logger, run_summary
from grail_core.telemetry.run_summary import said_at_the_end
from grail_envs import DEFAULT_ENV_ID
from grail_envs.bound import BoundEnvironments, load_bound
from grail_trainer.commands import training_environment
from grail_trainer.data.intake import VerdictListener
from grail_trainer.evaluating.beside import Evaluations
from grail_trainer.evaluating.record import FILE as EVALUATIONS_FILE
from grail_trainer.evaluation_settings import NOTHING_BESIDE, BesideSettings, EvaluationSettings
from grail_trainer.hyper_parameters import HyperParameters, OptimiserSettings
from grail_trainer.learning.followers import dry_step_with_followers, follow, lead_masters
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.ranks import joined_ranks
from grail_trainer.learning.reference import Offloaded
from grail_trainer.learning.sharded_masters import Lead, require_shareable
from grail_trainer.merging.start import has_gradient_work, run_aggregator
from grail_trainer.metrics import TABLE
from grail_trainer.publishing.publication import NO_CHOICE, Publisher, TableChoice, first_window
from grail_trainer.publishing.sole_writer import leave_if_older
from grail_trainer.service import TrainerService
from grail_trainer.state import LostStateError, TrainerState, require_same_kind, settings_changed

log = get_logger(__name__)

EnvironmentOf = Callable[[CheckpointManifest], Environment]
"""The environment that a checkpoint names."""


def run_trainer(
    settings: Settings,
    stopping: Stopping,
    *,
    model: Path | None,
    env_id: str | None,
    windows: int | None,
    hyper_parameters: HyperParameters,
    acknowledged: Window | None = None,
    tensor_parallel: int = 1,
    beside: BesideSettings = NOTHING_BESIDE,
    choice: TableChoice = NO_CHOICE,
    without_state: bool = False,
) -> int:
    """Join the network, publish its first checkpoint if there is none, and learn until stopped.

    In a network whose newest checkpoint asks for gradient work rounds are merged instead, and no model is needed.

    Of several ranks (torchrun) the first does this, and the others follow it.

    Args:
        model: of the network's first checkpoint; None where it has one: its files are then taken from the newest. env_id: None:
            the network's own environment, and of a network that begins the default one.
        acknowledged: the window of an alarm that ended the trainer, and that a person has seen.
        beside: what runs beside the learning, and changes no weights. choice: of the calibration table to be pinned.
        without_state: go on from the last checkpoint where the training state is lost or older than it.

    Returns the number of windows learned from, on the first rank.

    Raises:
        AlarmStopError: an alarm ended the run, and was not acknowledged.
    """
    with joined_ranks(settings.device, tensor=tensor_parallel) as ranks:
        if ranks.count > 1:
            require_shareable(hyper_parameters.optimiser)
        if not ranks.first:
            with stopping():  # the first rank says when it ends; its terminal or its supervisor tell all ranks alike
                follow(ranks, hyper_parameters)
            return 0
        with Lead(ranks) as lead:
            return _run_first(
                settings,
                stopping,
                lead,
                model=model,
                env_id=env_id,
                windows=windows,
                hyper_parameters=hyper_parameters,
                acknowledged=acknowledged,
                beside=beside,
                choice=choice,
                without_state=without_state,
            )


def _run_first(
    settings: Settings,
    stopping: Stopping,
    lead: Lead,
    *,
    model: Path | None,
    env_id: str | None,
    windows: int | None,
    hyper_parameters: HyperParameters,
    acknowledged: Window | None,
    beside: BesideSettings,
    choice: TableChoice,
    without_state: bool,
) -> int:
    opened = require_start(settings, TRAINER)
    participant = Participant.from_settings(settings, package="grail-trainer", opened=opened)
    require_trainer(participant)
    require_this_network(participant)
    if has_gradient_work(participant):
        return run_aggregator(participant, settings, stopping, rounds=windows)
    head = participant.own_checkpoints.sequence().head
    if model is None and head is None:
        raise ConfigurationError(
            "the network has no checkpoint yet, and no model to begin it with is given",
            where="--model",
            hint="name the folder of the network's first checkpoint; `grail-trainer init` makes a tiny one",
        )
    environment = environment_for(env_id, head, settings)
    if model is not None:
        require_folder(model)
    with participant.state.held(), watched(participant, settings, TRAINER, TABLE):
        neuron = participant.join(settings)
        log.event("trainer_started", hotkey=ss58(participant.signer.hotkey), uid=neuron.uid, network=participant.params.name)
        service = assemble(
            participant,
            model if model is not None else participant.checkpoints.materialise(_there(head)),
            environment,
            BoundEnvironments(settings.data_dir),
            hyper_parameters,
            device=str(lead.ranks.device),
            lead=lead,
            choice=choice,
            without_state=without_state,
        )
        service.acknowledged = acknowledged
        service.evaluations = evaluations_of(participant, beside.evaluation)
        try_largest_pass(service)
        with said_at_the_end(log, "trainer_stopped", run_summary.TRAINER) as summary, stopping() as stop:
            summary.windows = learned = service.run(stop, windows)
    return learned


def _there(head: CheckpointManifest | None) -> CheckpointManifest:
    assert head is not None, "a network without a checkpoint is begun with a model folder"
    return head


def environment_for(
    env_id: str | None, head: CheckpointManifest | None, settings: Settings, *, turn: bool = False
) -> Environment:
    """The network's with its parameters, where it is named or nothing is; else the one that is named, else the default.

    Args:
        turn: the network is to turn to another one, which may be of the same name: its own is not looked at.

    Raises:
        EnvironmentUnavailableError: unknown, of another version, or its data set is not there.
    """
    if head is not None and not turn and env_id in (None, head.environment.env_id):
        return load_bound(head.environment, head.env_digest, settings.data_dir)
    return training_environment(env_id or DEFAULT_ENV_ID, settings.data_dir)


def assemble(
    participant: Participant,
    model: Path,
    environment: Environment,
    environment_of: EnvironmentOf,
    chosen: HyperParameters,
    *,
    device: str = "cpu",
    lead: Lead | None = None,
    choice: TableChoice = NO_CHOICE,
    without_state: bool = False,
) -> TrainerService:
    """A trainer that stands where its journal or its bucket says; the network's first checkpoint is there afterwards.

    Args:
        model: folder of the network's first checkpoint. environment: the network's. environment_of: of a manifest.
        lead: of the first of several ranks; its followers have shards of the masters afterwards. choice: of the calibration
            table to be pinned.
        without_state: go on from the last checkpoint where the training state is lost or older than it.

    Raises:
        LostStateError: it is lost, or older than the bucket, and nobody said so.
        ConfigurationError: the bucket, the journal, the environment and what is to be trained do not belong together.
        CheckpointError: a checkpoint or the state of an earlier start cannot be read, or the table would be refused.
    """
    state = open_state(participant)
    publisher = Publisher(participant, read_model_files(model), states=state.folder, choice=choice)
    publisher.require_table()
    head = publisher.view().head
    if head is None:
        if state.journal is not None:
            raise ConfigurationError(
                "this trainer has learned, but its bucket holds no checkpoint",
                where=str(state.folder),
                hint="restore the bucket, or move this folder away to begin the network anew",
            )
        untrained = Masters.load(model, OptimiserSettings(), device=device)
        head = publisher.publish_first(_first_parts(participant, environment, model), _checked(untrained, model))
        del untrained
    participant.checkpoints.table(head)  # refused here like every reader, and not window after window
    require_environment(head, environment)
    shared = lead is not None and lead.ranks.count > 1
    leave_if_older(state, publisher.view().stored[-1], without_state=without_state)
    require_same_kind(state, chosen)
    masters = _masters_at(head, participant, chosen, "cpu" if shared else device)  # no device holds what all of them share
    if lead is not None and shared:
        masters = lead_masters(masters.module, chosen, lead)
    _find_place(state, masters, publisher, head, chosen, without_state=without_state)
    return TrainerService(
        participant=participant,
        masters=masters,
        state=state,
        publisher=publisher,
        verdicts=VerdictListener(participant, max_windows_old=chosen.intake.max_windows_old),
        checkpoint=LiveCheckpoint(participant.checkpoints, device=device),
        environment_of=environment_of,
        settings=chosen,
        reference=_reference(publisher, participant, device),
    )


def evaluations_of(participant: Participant, chosen: EvaluationSettings) -> Evaluations | None:
    """What evaluates this participant's checkpoints beside its learning; None: nothing does.

    Raises:
        DamagedStateError, StorageError: the file of earlier results cannot be gone on with.
    """
    if not chosen.evaluate_every:
        return None
    scratch = participant.cache_dir / "evaluating" / participant.network_id.hex()[:16]
    return Evaluations(chosen, file=participant.state.trainer / EVALUATIONS_FILE, scratch=scratch)


def try_largest_pass(service: TrainerService) -> None:
    """One pass of the largest size that an update may make, with the policy of the newest manifest; nothing is learned.

    Raises:
        OutOfMemoryError: with what to lower. Nothing was waited for yet, and no window is lost.
    """
    head = service.publisher.view().head
    if head is None:
        raise RuntimeError("a trainer is assembled where its network has a checkpoint")
    context = context_length(service.masters.module)
    prompt = min(MAX_PROMPT_TOKENS, context - 1)
    start = time.perf_counter()
    tokens = dry_step_with_followers(
        service.masters,
        prompt_length=prompt,
        longest=prompt + completion_limit(head.policy, context, prompt),
        tokens_per_pass=service.settings.update.tokens_per_pass,
    )
    log.event("largest_pass_fits", tokens=tokens, seconds=time.perf_counter() - start)


@dataclass(frozen=True)
class Prepared:
    """A folder's weights that can be published: everything is checked, and nothing written. `after`: the network's newest
    checkpoint, None where there is none. `forgets`: a trainer has learned here, and its moments go."""

    network: str
    model: Path
    env_id: str
    after: CheckpointManifest | None
    turn: bool
    forgets: bool
    publish: Callable[[], CheckpointManifest]

    @property
    def sequence(self) -> int:
        return 0 if self.after is None else self.after.sequence + 1


def publish_folder(
    participant: Participant,
    model: Path,
    environment: Environment,
    *,
    choice: TableChoice = NO_CHOICE,
    turn: bool = False,
) -> CheckpointManifest:
    """Publish a folder's weights; see `prepare_publication`."""
    return prepare_publication(participant, model, environment, choice=choice, turn=turn).publish()


def prepare_publication(
    participant: Participant,
    model: Path,
    environment: Environment,
    *,
    choice: TableChoice = NO_CHOICE,
    turn: bool = False,
) -> Prepared:
    """Check a folder's weights for publication. Where the network has checkpoints already, a trainer that is started afterwards
    goes on from these weights with fresh moments.

    Args:
        turn: the network turns to this environment, deliberately; tokenizer, template and architecture stay.

    Raises:
        ConfigurationError: the network has another environment, or is to turn to the one that it has.
        CheckpointError: another tokenizer, template or architecture than the network's, or unreadable weights.
    """
    publisher = Publisher(participant, read_model_files(model), choice=choice)
    publisher.require_table()
    weights = _checked(Masters.load(model, OptimiserSettings(learning_rate=0)), model)
    head = publisher.view().head
    _first_parts(participant, environment, model)
    if head is not None and turn:
        require_other_environment(head, environment)
    elif head is not None:
        require_environment(head, environment)

    def publish() -> CheckpointManifest:
        parts = _first_parts(participant, environment, model)  # of now: a person may have been asked meanwhile
        if head is None:
            return publisher.publish_first(parts, weights)
        state = open_state(participant)
        manifest = publisher.publish_next(parts.window, weights, parts if turn else None)
        state.forget()  # not before: of what was not published nothing is to be gone on from
        return manifest

    learned = head is not None and open_state(participant).journal is not None
    return Prepared(participant.params.name, model, environment.spec.env_id, head, turn, learned, publish)


def _checked(masters: Masters, model: Path) -> dict[str, Tensor]:
    """The weights to be published, once it is known that miners decode this model to what validators compute.

    Raises:
        CheckpointError: they do not, or a weight is beyond what the published type holds.
    """
    check_agreement(PolicyModel(masters.module))
    if not masters.finite():
        raise CheckpointError(
            "a weight is not finite as it would be published", where=str(model), hint="this model is broken; take another"
        )
    return masters.published()


def open_state(participant: Participant) -> TrainerState:
    """This hotkey's journal and masters; what an earlier version kept in the cache is brought over."""
    folder, network_id, trainer = participant.state.trainer, participant.network_id, participant.signer.hotkey
    TrainerState.adopt(participant.cache_dir / "trainer", folder, network_id=network_id, trainer=trainer)
    return TrainerState(folder, network_id=network_id, trainer=trainer)


def require_environment(head: CheckpointManifest, environment: Environment) -> None:
    if head.env_digest != environment.spec.digest:
        raise ConfigurationError(
            f"the network's environment is {head.environment.env_id} with digest {head.env_digest.hex()[:16]}…, "
            f"this is {environment.spec.env_id} with {environment.spec.digest.hex()[:16]}…",
            where="--env",
            hint="start with the network's environment; `grail-trainer publish --turn` turns it to another one, for everybody",
        )


def require_other_environment(head: CheckpointManifest, environment: Environment) -> None:
    if head.env_digest == environment.spec.digest:
        raise ConfigurationError(
            f"the network has this environment already: {head.environment.env_id}",
            where="--turn",
            hint="leave --turn out to publish other weights",
        )


def require_trainer(participant: Participant) -> None:
    """Raises ConfigurationError: this hotkey is not the trainer of the network."""
    require_trainer_hotkey(participant.params, participant.signer.hotkey)


def require_folder(model: Path) -> Path:
    if not model.is_dir():
        raise no_model_folder(model)
    return model


def _first_parts(participant: Participant, environment: Environment, model: Path) -> CheckpointParts:
    """What the manifest says. A folder that no miner could make prompts with is refused here, before it is published."""
    defaults = sampling_defaults(model)
    PromptRenderer(model)
    require_transformers_agrees(model)
    return CheckpointParts(
        network_id=participant.network_id,
        window=window_of(participant.chain.current_block()),
        valid_from=first_window(participant),
        environment=environment.spec,
        policy=defaults.policy,
        end_token_ids=defaults.end_tokens,
        thinking_mode="none",
    )


def _masters_at(head: CheckpointManifest, participant: Participant, chosen: HyperParameters, device: str) -> Masters:
    """Masters with the weights of the last checkpoint; the journal's state, where there is one, is put on top."""
    folder = participant.checkpoints.materialise(head)  # verified, where it is cached too: masters are made of it
    return Masters.load(folder, chosen.optimiser, device=device)


def _reference(publisher: Publisher, participant: Participant, device: str) -> Offloaded:
    """The first checkpoint of the network's environment, which the KL term holds on to; in memory only while an update asks
    for it."""
    first = publisher.view().beginning()
    return Offloaded(lambda: PolicyModel.load(participant.checkpoints.materialise(first), device=device).module)


def _find_place(
    state: TrainerState,
    masters: Masters,
    publisher: Publisher,
    head: CheckpointManifest,
    chosen: HyperParameters,
    *,
    without_state: bool = False,
) -> None:
    """Begin a journal, or go on with the one that is there.

    Without a journal (a first start, or a lost disk) the last published checkpoint says which windows were learned from;
    moments are lost then, and windows since are learned from again, from weights that do not know them.

    Raises:
        LostStateError: there was a journal once, and nobody said to go on without.
    """
    journal = state.journal
    if journal is None:
        first = publisher.view().stored[0].manifest
        decided = Window(first.valid_from - WINDOW_LENGTH) if head.sequence == 0 else head.window
        lost = head.sequence > 0 and not state.forgotten
        if lost and not without_state:
            raise LostStateError(
                f"there is no training state here, and this trainer has published {head.sequence + 1} checkpoints: going on "
                "from the last one begins with fresh moments, and learns again from windows since",
                where=str(state.folder),
                hint="bring the folder back from a copy or another disk (GRAIL_STATE_DIR); if it is lost, --without-state",
            )
        state.begin(decided)
        log.event("training_begun", window=decided + WINDOW_LENGTH)
        if lost:
            log.event("training_state_lost", window=decided, reason="there is no journal; going on from the last checkpoint")
        return
    state.resume(masters)
    changed = settings_changed(state.settings, chosen.to_json())
    if changed:
        told = ", ".join(f"{name}: {was} → {now}" for name, (was, now) in changed.items())
        log.event("settings_changed", window=journal.next_window, changed=told)
    log.event(
        "training_resumed",
        window=journal.decided,
        windows=journal.learned,
        published=journal.published,
        pending=len(journal.pending),
    )
