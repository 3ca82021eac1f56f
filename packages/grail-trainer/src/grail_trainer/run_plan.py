"""`grail-trainer run --dry-run`: what would run, resolved to the end, while nothing is started and nothing is written.

It finds the mistakes that a start would find before it writes anything: a hotkey that is not the trainer's, another environment
than the network's, a model folder that could not be published, a journal of another network or of another kind of
masters. Policy and end tokens are the signed manifest's as soon as there is one; before that, those of the model folder, which
the first manifest will state.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.checkpoints.publish import ANCHOR_EVERY
from grail_core.checkpoints.safety import read_model_files
from grail_core.environment import Environment
from grail_core.errors import CheckpointError
from grail_core.generation.defaults import sampling_defaults
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.protocol.constants import MAX_PROMPT_TOKENS, ROLLOUTS_PER_PROBLEM, WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.policy import GenerationPolicy, completion_limit, policy_json
from grail_core.protocol.types import Window
from grail_core.storage.layout import manifest_key, training_log_key
from grail_trainer.commands import training_environment
from grail_trainer.data.turns import max_from_one
from grail_trainer.evaluation_settings import NOTHING_BESIDE, BesideSettings
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.head import CHUNK_BYTES
from grail_trainer.memory import PHASES, SINGLE, MemoryPlan, ModelSize, memory_plan, model_size
from grail_trainer.publishing.publication import NO_CHOICE, Publisher, TableChoice, first_reachable, first_window
from grail_trainer.start import require_environment, require_folder, require_trainer
from grail_trainer.state import TrainerState, require_same_kind


@dataclass(frozen=True)
class WorkPlan:
    """The most that one window asks for."""

    groups: int
    rollouts: int
    tokens: int  # prompts and completions, each as long as it may be
    longest_rollout: int  # tokens
    groups_of_one_miner: int  # with ten miners or more
    optimiser_steps: int
    largest_pass: int  # tokens of the largest pass with gradients
    passes_of_a_step: int


@dataclass(frozen=True)
class RunPlan:
    network: str
    network_id: str
    hotkey: str
    next_window: Window
    last_window: Window | None
    environment: str
    policy: GenerationPolicy
    policy_from: str
    model: str
    size: ModelSize
    device: str
    memory: MemoryPlan
    machine_bytes: int
    work: WorkPlan
    state: str
    stands: str  # what the journal says
    checkpoint: str  # what would be published next
    calibration: str  # the table that it would pin
    objects: tuple[str, ...]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "network_id": self.network_id,
            "hotkey": self.hotkey,
            "next_window": self.next_window,
            "last_window": self.last_window,
            "environment": self.environment,
            "policy": policy_json(self.policy),
            "policy_from": self.policy_from,
            "model": self.model,
            "parameters": self.size.parameters,
            "vocabulary": self.size.vocabulary,
            "context_length": self.size.context_length,
            "layers": self.size.layers,
            "hidden_size": self.size.hidden_size,
            "device": self.device,
            "memory": self.memory.to_json(),
            "machine_bytes": self.machine_bytes,
            "work": vars(self.work),
            "state": self.state,
            "stands": self.stands,
            "checkpoint": self.checkpoint,
            "calibration": self.calibration,
            "objects": list(self.objects),
            "settings": self.settings,
        }

    def lines(self) -> list[str]:
        """For a person."""
        size, work, policy = self.size, self.work, self.policy
        phase, peak = self.memory.peak
        last = "until stopped" if self.last_window is None else f"to {self.last_window}"
        fits = "" if self.device != "cpu" or peak <= self.machine_bytes else "; this machine has less"
        head = [
            ("network", f"{self.network} ({self.network_id[:16]}…), hotkey {self.hotkey}"),
            ("windows", f"from {self.next_window} {last}"),
            ("environment", self.environment),
            (
                "policy",
                f"at most {policy.max_tokens} tokens, temperature {policy.temperature:g}, top-p {policy.top_p:g}, "
                f"top-k {policy.top_k}, repetition penalty {policy.repetition_penalty:g}; from {self.policy_from}",
            ),
            (
                "model",
                f"{self.model}: {size.parameters:,} parameters, {size.layers} layers of {size.hidden_size}, vocabulary "
                f"{size.vocabulary:,}, context {size.context_length:,}; {_trained(self.settings)}, published in bfloat16",
            ),
            (
                "a window",
                f"at most {work.groups} groups, {work.rollouts:,} rollouts, {work.tokens:,} tokens "
                f"({work.groups_of_one_miner} groups of one miner of ten); {work.optimiser_steps} optimiser steps, "
                f"{work.passes_of_a_step} passes each, of at most {work.largest_pass:,} tokens",
            ),
            ("memory", f"{gib(peak)} on {self.device} at most, while {phase} (machine: {gib(self.machine_bytes)}){fits}"),
        ]
        parts = [
            ("", f"  {gib(part.nbytes):>12}  {part.name}, {_when(part.phases)}") for part in self.memory.parts if part.nbytes
        ]
        tail = [
            ("state", f"{self.state}: {self.stands}"),
            ("publishes", self.checkpoint),
            ("", f"  calibration {self.calibration}"),
            *(("", f"  {name}") for name in self.objects),
            *((f"{name} settings", _pairs(section)) for name, section in self.settings.items()),
        ]
        return [f"{name:<20}{text}".rstrip() for name, text in (*head, *parts, *tail)]


def plan_run(
    settings: Settings,
    *,
    model: Path,
    env_id: str,
    windows: int | None,
    chosen: HyperParameters,
    beside: BesideSettings = NOTHING_BESIDE,
    choice: TableChoice = NO_CHOICE,
) -> RunPlan:
    """Resolve a run of the trainer.

    Raises:
        GrailError: what a start would find wrong before it writes anything.
    """
    participant = Participant.from_settings(settings)
    require_trainer(participant)
    environment = training_environment(env_id, settings.data_dir)
    device = settings.device
    return resolve(
        participant, environment, model=model, windows=windows, chosen=chosen, beside=beside, device=device, choice=choice
    )


def resolve(
    participant: Participant,
    environment: Environment,
    *,
    model: Path,
    windows: int | None,
    chosen: HyperParameters,
    beside: BesideSettings = NOTHING_BESIDE,
    device: str = "cpu",
    choice: TableChoice = NO_CHOICE,
) -> RunPlan:
    """The plan of a participant's run. Raises: as `plan_run`."""
    files = read_model_files(require_folder(model))
    try:
        size = model_size(json.loads(files.files["config.json"]), chosen.optimiser)
    except (KeyError, ValueError) as error:
        raise CheckpointError("config.json cannot be read", where=str(model)) from error
    view = participant.own_checkpoints.sequence()
    head = view.head
    if head is not None:
        require_environment(head, environment)
    pinned = Publisher(participant, files, choice=choice).require_table()
    policy = head.policy if head is not None else sampling_defaults(model).policy
    folder = participant.state.trainer
    state = TrainerState(folder, network_id=participant.network_id, trainer=participant.signer.hotkey)
    journal = state.journal
    require_same_kind(state, chosen)
    first = view.beginning().valid_from if head is not None else first_window(participant)
    window = journal.next_window if journal is not None else _begins(head, first)
    work = work_plan(size, policy, chosen)
    return RunPlan(
        network=participant.params.name,
        network_id=participant.network_id.hex(),
        hotkey=ss58(participant.signer.hotkey),
        next_window=window,
        last_window=None if windows is None else Window(first + (windows - 1) * WINDOW_LENGTH),
        environment=environment.spec.env_id,
        policy=policy,
        policy_from="the model folder, no checkpoint is published" if head is None else f"checkpoint {head.sequence}",
        model=str(model),
        size=size,
        device=device,
        memory=memory_plan(
            size, chosen, pack_tokens=work.largest_pass, logits_bytes=CHUNK_BYTES + SINGLE * size.vocabulary * size.hidden_size
        ),
        machine_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        work=work,
        state=str(folder),
        stands="no journal"
        if journal is None
        else f"{journal.learned} windows learned from, {len(journal.pending)} to publish",
        checkpoint=_next_checkpoint(head),
        calibration=pinned.name,
        objects=_objects(participant, head, window, first),
        settings=chosen.to_json() | dataclasses.asdict(beside),
    )


def work_plan(size: ModelSize, policy: GenerationPolicy, chosen: HyperParameters) -> WorkPlan:
    """The most that a window of full-length rollouts asks for."""
    prompt = min(MAX_PROMPT_TOKENS, size.context_length - 1)
    longest = prompt + completion_limit(policy, size.context_length, prompt)
    groups, update = chosen.intake.most_groups, chosen.update
    minibatches = min(update.minibatches, groups)
    largest = max(update.tokens_per_pass, longest)
    in_a_step = -(-groups // minibatches) * ROLLOUTS_PER_PROBLEM
    in_a_pass = max(1, update.tokens_per_pass // longest)
    return WorkPlan(
        groups=groups,
        rollouts=groups * ROLLOUTS_PER_PROBLEM,
        tokens=groups * ROLLOUTS_PER_PROBLEM * longest,
        longest_rollout=longest,
        groups_of_one_miner=max_from_one(groups, 10),
        optimiser_steps=update.epochs * minibatches,
        largest_pass=largest,
        passes_of_a_step=-(-in_a_step // in_a_pass),
    )


def _begins(head: CheckpointManifest | None, first: Window) -> Window:
    """The first window of a trainer without a journal: as `start` finds its place."""
    return first if head is None or head.sequence == 0 else Window(head.window + WINDOW_LENGTH)


def _next_checkpoint(head: CheckpointManifest | None) -> str:
    if head is None:
        return "checkpoint 0, the model folder's weights, at once; after each window a delta to it"
    sequence = head.sequence + 1
    whole = "whole weights and a delta" if sequence % ANCHOR_EVERY == 0 else "a delta"
    return f"checkpoint {sequence} after the window's update: {whole}, and the window's training log"


def _objects(participant: Participant, head: CheckpointManifest | None, window: Window, first: Window) -> tuple[str, ...]:
    valid_from = (
        first if head is None else first_reachable(window, participant.chain.current_block(), participant.params, spare=1)
    )
    log = () if head is None else (training_log_key(window),)
    return (f"{manifest_key(valid_from)} or a later window's", *log)


def _pairs(section: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in section.items())


def _trained(settings: dict[str, Any]) -> str:
    chosen = settings["optimiser"]
    return f"adapters of rank {chosen['lora_rank']} trained" if chosen["lora_rank"] else f"trained in {chosen['master_dtype']}"


def _when(phases: tuple[str, ...]) -> str:
    return "always" if set(phases) == set(PHASES) else "while " + " and ".join(phases)


def gib(count: int) -> str:
    """A number of bytes as a person reads it."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"
