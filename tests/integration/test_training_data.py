"""What is learned from and how: nothing stale, nothing poisoned, and what the signed manifest of its own window says of it."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.loaded import LiveCheckpoint, LoadedCheckpoint
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.environment import Grade, Problem
from grail_core.errors import OutOfMemoryError
from grail_core.files.shared import put_file
from grail_core.participant import waiting
from grail_core.proof.alternatives import Alternatives
from grail_core.protocol import MinerStatus, RolloutRecord, WindowStatus
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import training_log_key
from grail_core.verification.examine import Examination, examine_sample
from grail_envs.sat import SatEnvironment
from grail_miner.groups import Group
from grail_trainer import service as trainer_service
from grail_trainer.data import batch, behaviour, intake
from grail_trainer.data.behaviour import BehaviourPolicy
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.guarded import learn_window
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.service import TrainerService
from grail_trainer.start import assemble
from tooling.adversaries.crowd import Liar
from tooling.testing.faults import events
from tooling.testing.learning_network import SETTINGS, LearningNetwork, learning_model, published_log, service
from tooling.testing.small_network import FIRST_WINDOW
from tooling.testing.speaking import say, scored, unscored

SECOND_WINDOW = Window(FIRST_WINDOW + 30)
GROUPS = range(2)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)
    monkeypatch.setattr(intake, "MIN_PAUSE_SECONDS", 0)
    monkeypatch.setattr(intake, "seconds_of", lambda *_: 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


@dataclasses.dataclass(frozen=True)
class Mined:
    """A network in its first window, the groups that its miner made, and the file of them; nothing is judged."""

    network: LearningNetwork
    groups: list[Group]
    data: bytes


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Mined:
    network = LearningNetwork(tmp_path_factory.mktemp("network"), model=model, miners=1, validators=1)
    network.advance_to(FIRST_WINDOW + 1)
    liar = Liar(network, "miner-0")
    groups = liar.groups(GROUPS)
    return Mined(network, groups, liar.pack(groups))


@pytest.fixture
def there(mined: Mined, tmp_path: Path) -> Mined:
    """A copy of it."""
    shutil.copytree(mined.network.root, tmp_path / "network")
    other = object.__new__(LearningNetwork)
    other.__dict__.update(mined.network.__dict__)
    other.root, other.chain = tmp_path / "network", LocalChain.open(tmp_path / "network" / "chain.sqlite")
    return dataclasses.replace(mined, network=other)


def accept(network: LearningNetwork, data: bytes, window: Window = FIRST_WINDOW) -> None:
    """The validator with all stake says that it accepted these bytes in this window."""
    network.advance_to(window + 38)
    put_file(network.participant("validator-0").own_store, Digest(hashlib.sha256(data).digest()), data)
    say(network, "validator-0", scored(network, {"miner-0": (data, MinerStatus.ACCEPTED)}, window))


def pass_over(network: LearningNetwork) -> None:
    """The first window is void for the validator with all stake: nothing of it is waited for."""
    say(network, "validator-0", unscored(network, WindowStatus.VOID))


def why_dropped(trainer: TrainerService, window: Window) -> dict[int | None, set[str]]:
    """The checks that reject, or the reason, by group of the window's published log."""
    return {
        one["group"]: {finding["check"] for finding in one["findings"] if finding["outcome"] == "reject"} or {one["reason"]}
        for one in published_log(trainer.participant, window)["dropped"]
    }


def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the service tells from here on."""
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(trainer_service.log, "event", lambda name, **fields: said.append((name, fields)))
    return said


# --- stale --------------------------------------------------------------------------------------------------------------


def test_a_file_of_an_earlier_window_is_not_learned_from_again(
    there: Mined, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(there.network, there.data)
    accept(there.network, there.data, SECOND_WINDOW)
    trainer, said = service(there.network.participant("trainer"), model), told(monkeypatch)
    assert trainer.run(threading.Event(), windows=2) == 1
    (dropped,) = (fields for name, fields in said if name == "group_dropped")
    assert (dropped["window"], dropped["group"]) == (SECOND_WINDOW, None)
    assert trainer.state.journal is not None
    assert trainer.state.journal.decided == SECOND_WINDOW


def test_rollouts_of_an_earlier_window_in_a_file_of_this_one_are_not_learned_from(there: Mined, model: Path) -> None:
    """One fresh group beside a stale one: properly signed, and accepted by all stake."""
    there.network.advance_to(SECOND_WINDOW + 1)
    liar = Liar(there.network, "miner-0", SECOND_WINDOW)
    fresh = liar.groups([0])
    accept(there.network, liar.pack([*fresh, there.groups[1]]), SECOND_WINDOW)
    pass_over(there.network)
    trainer = service(there.network.participant("trainer"), model)
    trainer.run(threading.Event(), windows=2)
    assert trainer.state.journal is not None
    assert trainer.state.journal.learned == 0  # a prompt that is not the window's costs the whole file


def test_rollouts_that_an_older_checkpoint_drew_are_not_learned_from(there: Mined, model: Path) -> None:
    """The prompts are this window's; the weights are those of a checkpoint that is not valid any more."""
    network = there.network
    trainer = network.participant("trainer")
    masters = Masters.load(model, OptimiserSettings())
    with torch.no_grad():
        for parameter in masters.module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    publish(
        trainer.own_checkpoints,
        parts_of(network, model),
        masters.published(),
        read_model_files(model),
        trainer.signer,
        network.params,
    )
    network.advance_to(SECOND_WINDOW + 1)
    liar = Liar(network, "miner-0", SECOND_WINDOW)
    assert liar.context.manifest.sequence == 1
    old = network.mining("miner-0")
    stale = old.produce_groups(liar.context, old.select_model(network.participant("miner-0").open_window(FIRST_WINDOW)), GROUPS)
    accept(network, liar.pack(stale), SECOND_WINDOW)
    pass_over(network)
    learner = service(trainer, model, without_state=True)
    learner.run(threading.Event(), windows=2)
    assert learner.state.journal is not None
    assert learner.state.journal.learned == 0


def parts_of(network: LearningNetwork, model: Path, **changed: Any) -> CheckpointParts:
    """Of a second checkpoint, in force in the second window."""
    first = network.manifest
    parts = CheckpointParts(
        network_id=first.network_id,
        window=FIRST_WINDOW,
        valid_from=SECOND_WINDOW,
        environment=first.environment,
        policy=first.policy,
        end_token_ids=first.end_token_ids,
        thinking_mode=first.thinking_mode,
    )
    return dataclasses.replace(parts, **changed)


# --- poisoned -----------------------------------------------------------------------------------------------------------


def better(record: RolloutRecord) -> RolloutRecord:
    return dataclasses.replace(record, reward=1.0, success=True) if record.rollout % 2 else record


def swapped(record: RolloutRecord) -> RolloutRecord:
    """Another text under the same proof."""
    if record.rollout or record.completion_length < 2:
        return record
    tokens = np.array(record.tokens)
    tokens[record.prompt_length] = (int(tokens[record.prompt_length]) + 1) % 20
    return dataclasses.replace(record, tokens=tokens)


@pytest.mark.parametrize("poison", [better, swapped])
def test_a_group_with_a_reward_or_a_text_that_is_not_its_own_is_dropped_and_the_rest_learned_from(
    there: Mined, model: Path, poison: Any
) -> None:
    spoilt = Group(1, tuple(map(poison, there.groups[1].rollouts)))
    assert any(one is not other for one, other in zip(spoilt.rollouts, there.groups[1].rollouts, strict=True))
    accept(there.network, Liar(there.network, "miner-0").pack([there.groups[0], spoilt]))
    trainer = service(there.network.participant("trainer"), model)
    assert trainer.run(threading.Event(), windows=1) == 1
    log = published_log(trainer.participant)
    assert [member["group"] for member in log["groups"]] == [0]
    assert set(why_dropped(trainer, FIRST_WINDOW)) == {1}
    checks = {why.partition(":")[0] for why in why_dropped(trainer, FIRST_WINDOW)[1]}
    assert checks <= {"reward", "proof", "sampling", "logprob"}


# --- what the manifest says ---------------------------------------------------------------------------------------------


def test_an_update_takes_policy_and_end_tokens_from_the_manifest_of_its_own_window(
    there: Mined, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's first checkpoint allows 8 tokens, the second 7 and a lower temperature; the model folder says neither."""
    network = there.network
    trainer = network.participant("trainer")
    weights = Masters.load(model, OptimiserSettings()).published()
    policy = dataclasses.replace(network.manifest.policy, max_tokens=7, temperature=0.75)
    publish(
        trainer.own_checkpoints,
        parts_of(network, model, policy=policy),
        weights,
        read_model_files(model),
        trainer.signer,
        network.params,
    )
    network.advance_to(SECOND_WINDOW + 1)
    liar = Liar(network, "miner-0", SECOND_WINDOW)
    accept(network, liar.pack(liar.groups(range(4))), SECOND_WINDOW)
    folder = tmp_path / "folder"
    shutil.copytree(model, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 3, "max_new_tokens": 2, "temperature": 9.0}')
    asked: dict[int, tuple[float, int, set[bool]]] = {}

    def learning(masters: Any, groups: list[RolloutGroup], *arguments: Any, **options: Any) -> Any:
        cut = {
            rollout.truncated
            for group in groups
            for rollout in group.rollouts
            if rollout.row.completion_length < options["token_limit"]
        }
        asked[options["window"]] = (options["temperature"], options["token_limit"], cut)
        return learn_window(masters, groups, *arguments, **options)

    monkeypatch.setattr(trainer_service, "learn_window", learning)
    learner = service(trainer, folder, without_state=True)
    learner.run(threading.Event(), windows=2)
    assert asked == {SECOND_WINDOW: (0.75, 7, {False})}  # what is shorter than the limit ended by itself


def test_a_rollout_that_ended_at_the_limit_says_so(there: Mined, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens are not enough for an answer of three variables and its tags."""
    network = there.network
    trainer = network.participant("trainer")
    policy = dataclasses.replace(network.manifest.policy, max_tokens=2)
    weights = Masters.load(model, OptimiserSettings()).published()
    publish(
        trainer.own_checkpoints,
        parts_of(network, model, policy=policy),
        weights,
        read_model_files(model),
        trainer.signer,
        network.params,
    )
    network.advance_to(SECOND_WINDOW + 1)
    liar = Liar(network, "miner-0", SECOND_WINDOW)
    ends = set(liar.context.manifest.end_token_ids)
    made = liar.groups([0])
    cut = [record.completion.tolist()[-1] not in ends for record in made[0].rollouts]
    assert any(cut)
    flags: list[bool] = []
    monkeypatch.setattr("grail_trainer.data.batch.varies", lambda rewards: True)  # none of them earns anything

    def learning(masters: Any, groups: list[RolloutGroup], *arguments: Any, **options: Any) -> Any:
        flags.extend(rollout.truncated for group in groups for rollout in group.rollouts)
        return learn_window(masters, groups, *arguments, **options)

    monkeypatch.setattr(trainer_service, "learn_window", learning)
    accept(network, liar.pack(made), SECOND_WINDOW)
    pass_over(network)
    service(trainer, model, without_state=True).run(threading.Event(), windows=2)
    assert flags == cut


# --- faults -------------------------------------------------------------------------------------------------------------


class Indifferent(SatEnvironment):
    """Rewards every answer alike."""

    def grade(self, problem: Problem, completion: str) -> Grade:
        return Grade(0.5, success=False, well_formed=True)


def test_a_window_of_equal_rewards_alone_is_passed_over_and_the_next_is_waited_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Indifferent(3, 4, 5, 6)
    (tmp_path / "network").mkdir()
    network = LearningNetwork(tmp_path / "network", environment=environment, model=model, miners=1, validators=1)
    network.advance_to(FIRST_WINDOW + 1)
    accept(network, network.mine(network.mining("miner-0"), FIRST_WINDOW, range(1)))
    said = told(monkeypatch)
    trainer = assemble(network.participant("trainer"), model, environment, lambda manifest: environment, SETTINGS)
    before = trainer.masters.tensors()
    assert trainer.run(threading.Event(), windows=1) == 0
    assert [fields["reason"] for name, fields in said if name == "window_not_trained"] == [
        "no group that varies passed this trainer's own checks"
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.masters.tensors().items())
    assert len(trainer.publisher.view().stored) == 1


def test_groups_are_verified_at_every_position_beside_the_copy_that_behaviour_is_asked_of(
    there: Mined, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One float32 copy of the checkpoint in memory, whatever it is used for."""
    copies: list[Alternatives] = []
    asked: list[torch.nn.Module] = []
    examined: list[Examination] = []

    def made(*arguments: Any) -> Alternatives:
        copies.append(Alternatives(*arguments))
        return copies[-1]

    def looked_at(*arguments: Any) -> Examination:
        examined.append(examine_sample(*arguments))
        return examined[-1]

    def logprobs(policy: BehaviourPolicy, *arguments: Any) -> Any:
        asked.append(policy._policy.module)
        return given(policy, *arguments)

    given = BehaviourPolicy.logprobs
    monkeypatch.setattr(behaviour, "Alternatives", made)
    monkeypatch.setattr(batch, "examine_sample", looked_at)
    monkeypatch.setattr(BehaviourPolicy, "logprobs", logprobs)
    accept(there.network, there.data)
    trainer = service(there.network.participant("trainer"), model)
    assert trainer.run(threading.Event(), windows=1) == 1
    (copied,) = copies
    assert asked
    assert all(module is copied.reference.model().module for module in asked)
    for one in examined:
        assert one.submission is not None
        assert one.evidence is not None
        for rollout in one.evidence.rollouts:
            length = one.submission.rollout_of(rollout.group, rollout.rollout).completion_length
            assert rollout.reference is not None
            assert rollout.reference.finite
            assert len(rollout.reference.margins) == length
        assert {"sketch_ratio", "twin_margin", "logprob_ratio", "twin_logprob"} <= {
            finding.detail.partition(":")[0] for finding in one.findings
        }


def test_rollouts_longer_than_the_token_budget_are_passes_of_their_own(there: Mined, model: Path) -> None:
    """None is dropped, and the update is the one of a large budget but for rounding."""
    accept(there.network, there.data)
    states = []
    for budget in (1, SETTINGS.update.tokens_per_pass):
        root = there.network.root.parent / f"budget-{budget}"
        shutil.copytree(there.network.root, root)
        other = object.__new__(LearningNetwork)
        other.__dict__.update(there.network.__dict__)
        other.root, other.chain = root, LocalChain.open(root / "chain.sqlite")
        settings = dataclasses.replace(SETTINGS, update=dataclasses.replace(SETTINGS.update, tokens_per_pass=budget))
        trainer = service(other.participant("trainer"), model, settings)
        assert trainer.run(threading.Event(), windows=1) == 1
        states.append((published_log(trainer.participant)["groups"], trainer.masters.tensors()))
    (small_groups, small), (large_groups, large) = states
    assert small_groups == large_groups
    for name, tensor in large.items():
        if name.startswith("master."):
            torch.testing.assert_close(small[name], tensor, atol=2e-4, rtol=1e-3)


def test_a_gradient_that_is_no_number_costs_its_step_and_no_window(
    there: Mined, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, moments and the count of steps are those of the steps that were made."""
    accept(there.network, there.data)
    trainer = service(there.network.participant("trainer"), model)
    before = trainer.masters.tensors()
    step = trainer.masters.step

    def broken(**options: Any) -> float:
        next(trainer.masters.module.parameters()).grad.view(-1)[0] = float("nan")
        return step(**options)

    monkeypatch.setattr(trainer.masters, "step", broken)
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    after = trainer.masters.tensors()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name.startswith(("master.", "moment")))
    assert "window_trained" in names
    assert (
        published_log(trainer.participant)["statistics"]["steps_refused"]
        == published_log(trainer.participant)["statistics"]["steps"]
    )


# --- the behaviour checkpoint -------------------------------------------------------------------------------------------


def test_the_behaviour_checkpoint_is_stepped_by_its_delta_and_whole_weights_are_never_fetched_again(
    there: Mined, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third window is drawn by what was learned from the first, which is a small object away from what is loaded."""
    network = there.network
    trainer = service(network.participant("trainer"), model)
    used, read = list[LoadedCheckpoint](), list[str]()
    at, store = trainer.checkpoint.at, trainer.participant.own_store
    get = store.get

    def at_seen(manifest: CheckpointManifest) -> LoadedCheckpoint:
        used.append(at(manifest))
        return used[-1]

    def get_seen(key: str, **options: Any) -> bytes:
        read.append(key)
        return get(key, **options)

    monkeypatch.setattr(trainer.checkpoint, "at", at_seen)
    monkeypatch.setattr(store, "get", get_seen)
    for number in range(3):
        window = Window(FIRST_WINDOW + 30 * number)
        network.advance_to(window + 1)
        liar = Liar(network, "miner-0", window)
        accept(network, liar.pack(liar.groups(GROUPS)), window)
        trainer.run(threading.Event(), windows=number + 1)
    assert [loaded.manifest.sequence for loaded in used] == [0, 0, 1]
    assert used[2].model is used[0].model  # the weights in memory, brought to the next checkpoint
    published = {item.manifest.sequence: item.manifest for item in trainer.publisher.view().stored}
    whole = {shard.object.key for manifest in published.values() for shard in manifest.shards}
    assert whole
    assert whole.isdisjoint(read)
    published_log(trainer.participant)
    assert read[-1] == training_log_key(FIRST_WINDOW)  # what is read is seen
    fresh = LiveCheckpoint(network.participant("miner-0").checkpoints).at(published[1]).model.state()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in used[2].model.state().items())


def test_a_behaviour_pass_without_memory_ends_the_trainer_and_costs_no_window_and_no_file(
    there: Mined, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the machine's fault: no group is dropped for it, and the next start learns from what the first one would have."""
    accept(there.network, there.data)
    said = told(monkeypatch)
    trainer = service(there.network.participant("trainer"), model)
    with monkeypatch.context() as patch:
        patch.setattr(BehaviourPolicy, "_pass", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(OutOfMemoryError):
            trainer.run(threading.Event(), windows=1)
    assert trainer.state.journal is not None
    assert trainer.state.journal.next_window == FIRST_WINDOW
    assert not [name for name, _ in said if name in ("group_dropped", "window_not_trained")]
    assert service(there.network.participant("trainer"), model).run(threading.Event(), windows=1) == 1
    assert published_log(trainer.participant)["dropped"] == []
