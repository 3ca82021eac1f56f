"""Promises of the audit: what a trainer published is repeated to the bit by somebody else, and what was altered is found out.

One run of the learning network is trained once; each test audits a copy of it, or of its buckets with one thing altered and
signed anew by the trainer, whose word is what an audit does not take.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.manifests import EquivocationError
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import anchor_key, file_key, training_log_key, verdict_key
from grail_trainer import service as shell
from grail_trainer.auditing import auditor
from grail_trainer.auditing.auditor import Auditor
from grail_trainer.auditing.distance import CLOSE
from grail_trainer.auditing.report import Outcome, WindowAudit
from grail_trainer.data import batch
from grail_trainer.data.batch import BatchMember, DroppedGroup
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.learning.guarded import learn_window
from grail_trainer.learning.rollouts import Rollout, RolloutGroup
from grail_trainer.publishing.machine_facts import machine_facts
from grail_trainer.publishing.publication import Publisher
from grail_trainer.publishing.state_anchors import SignedAnchor
from grail_trainer.publishing.training_log import LogLink, SignedLog, TrainingLog
from grail_trainer.service import TrainerService
from grail_trainer.start import publish_folder
from tooling.testing.learning_network import ENVIRONMENT, LearningNetwork, learning_model, service
from tooling.testing.small_network import FIRST_WINDOW

WINDOWS = tuple(Window(FIRST_WINDOW + 30 * number) for number in range(3))
WITH_KL = HyperParameters(
    GrpoSettings(epochs=2, minibatches=2, kl_coefficient=0.01), OptimiserSettings(learning_rate=1e-3, warmup_steps=4)
)


@dataclass
class Run:
    """A trained network, or a copy of one."""

    network: LearningNetwork
    model: Path

    def copy(self, root: Path) -> Run:
        shutil.copytree(self.network.root, root)
        network = object.__new__(LearningNetwork)
        network.__dict__ |= self.network.__dict__ | {"root": root, "chain": LocalChain.open(root / "chain.sqlite")}
        return Run(network, self.model)

    @property
    def store(self) -> ObjectStore:
        """The trainer's bucket, to write."""
        return self.network.participant("trainer").own_store

    def log(self, window: Window) -> TrainingLog:
        return SignedLog.decode(self.store.get(training_log_key(window), max_bytes=2**25)).log

    def alter(self, window: Window, **changes: Any) -> None:
        """The same log with other members, signed anew; the logs after it follow this one then."""
        windows = [one for one in WINDOWS if one >= window]
        link: LogLink | None = None
        for one in windows:
            log = dataclasses.replace(self.log(one), **(changes if one == window else {"previous": link}))
            link = LogLink(one, log.digest())
            signed = SignedLog.sign(log, self.network.signers["trainer"])
            self.store.put(training_log_key(one), signed.encode())

    def audit(self, *windows: Window, name: str = "miner-0") -> dict[Window, WindowAudit]:
        """As anybody would, who is not the trainer."""
        looking = Auditor(self.network.participant(name), self.network.environment_of)
        return {one.window: one for one in looking.audit(windows or WINDOWS)}


def trainer_of(run: Run, settings: HyperParameters = WITH_KL) -> TrainerService:
    trainer = service(run.network.participant("trainer"), run.model, settings, without_state=True)
    trainer.publisher.anchor_every = 2
    return trainer


def train(run: Run, windows: Sequence[Window], settings: HyperParameters = WITH_KL) -> None:
    """Mine, judge and learn from these windows, in one start of the trainer."""
    trainer: TrainerService | None = None
    for window in windows:
        run.network.advance_to(window + 1)
        for name in ("miner-0", "miner-1"):
            run.network.mine_and_upload(name, range(2), window)
        run.network.judge(window)
        trainer = trainer or trainer_of(run, settings)
        trainer.run(threading.Event(), windows=1 + (window - FIRST_WINDOW) // 30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three windows, with a restart of the trainer and an anchor after the second."""
    folder = tmp_path_factory.mktemp("run")
    model = learning_model(folder / "model")
    root = folder / "network"
    root.mkdir()
    run = Run(LearningNetwork(root, model=model, environment=ENVIRONMENT), model)
    train(run, WINDOWS[:2])
    train(run, WINDOWS[2:])
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    return trained.copy(tmp_path / "copy")


def test_every_window_is_repeated_to_the_bit_across_an_anchor_and_a_restart(run: Run) -> None:
    done = run.audit()
    assert list(done) == list(WINDOWS)
    for window, audit in done.items():
        assert audit.outcome is Outcome.EQUAL, (window, audit.difference)
        assert (audit.machine, audit.taken) == ([], [])
    assert [run.log(window).anchor is not None for window in WINDOWS] == [False, True, False]
    assert [run.log(window).begins for window in WINDOWS] == [True, False, False]
    assert {run.log(window).origin for window in WINDOWS} == {run.network.manifest.digest}


def test_one_window_is_audited_from_the_anchor_before_it_and_nothing_else_is_repeated(run: Run) -> None:
    assert list(run.audit(WINDOWS[2])) == [WINDOWS[2]]
    assert list(run.audit(WINDOWS[1])) == list(WINDOWS[:2])  # on the way from the first checkpoint


def test_where_the_anchor_is_gone_the_audit_begins_before_it(run: Run) -> None:
    run.store.delete(anchor_key(WINDOWS[1]))
    done = run.audit(WINDOWS[2])
    assert {audit.outcome for audit in done.values()} == {Outcome.EQUAL}
    assert list(done) == list(WINDOWS[:3])
    assert done[WINDOWS[1]].taken == ["its anchor is not kept any more"]


def with_knob(log: TrainingLog, section: str, name: str, value: str | int) -> dict[str, Any]:
    return dict(log.settings) | {section: dict(log.settings[section]) | {name: value}}


Alteration = Callable[[TrainingLog], dict[str, Any]]

ALTERATIONS: dict[str, tuple[Alteration, str]] = {
    "two groups in another order": (lambda log: {"groups": log.groups[::-1]}, "not what the rules give"),
    "a group left out": (lambda log: {"groups": log.groups[1:]}, "not what the rules give"),
    "a group named twice": (lambda log: {"groups": (*log.groups[1:], log.groups[1])}, "not what the rules give"),
    "a file left out": (lambda log: {"files": log.files[1:]}, "leaves out a file"),
    "a verdict left out": (
        lambda log: {"verdicts": dict(list(log.verdicts.items())[1:]), "files": (), "groups": ()},
        "leaves out a file",
    ),
    "another learning rate": (
        lambda log: {
            "settings": dict(log.settings) | {"optimiser": dict(log.settings["optimiser"]) | {"learning_rate": "0.002"}}
        },
        "the state after",
    ),
    "one epoch less": (
        lambda log: {"settings": with_knob(log, "update", "epochs", 1)},
        "the state after",
    ),
    "another state": (lambda log: {"state_after": Digest(bytes(32))}, "the state after"),
    "other weights": (lambda log: {"weights_root": Digest(bytes(32))}, "not the cast"),
    "better figures": (lambda log: {"statistics": dict(log.statistics) | {"loss": "-1.0"}}, "what it says of the update"),
    "another checkpoint": (
        lambda log: {"checkpoint": dataclasses.replace(log.checkpoint, weights_root=Digest(bytes(32)))},  # type: ignore[type-var]
        "not the one that the log names",
    ),
    "no checkpoint": (lambda log: {"checkpoint": None}, "the log does not say so"),
    "another temperature": (lambda log: {"temperature": "0.5"}, "temperature"),
    "another reference": (lambda log: {"reference": log.behaviour}, "first checkpoint"),
}


FAST = ("two groups in another order", "a group left out", "another learning rate", "other weights")


@pytest.mark.parametrize("what", [pytest.param(what, marks=() if what in FAST else pytest.mark.heavy) for what in ALTERATIONS])
def test_a_log_that_says_something_else_than_what_was_done_is_found_out(run: Run, what: str) -> None:
    window = WINDOWS[2]
    change, words = ALTERATIONS[what]
    run.alter(window, **change(run.log(window)))
    audit = run.audit(window)[window]
    assert audit.outcome is Outcome.DIFFERENT, (audit.outcome, audit.difference)
    assert words in audit.difference


def test_after_a_window_that_differs_nothing_is_said_until_the_next_anchor(run: Run) -> None:
    run.alter(WINDOWS[0], state_after=Digest(bytes(32)))
    run.alter(WINDOWS[1], state_before=Digest(bytes(32)))
    done = run.audit()
    assert done[WINDOWS[0]].outcome is Outcome.DIFFERENT
    assert done[WINDOWS[1]].outcome is Outcome.UNAUDITABLE
    assert done[WINDOWS[2]].outcome is Outcome.EQUAL


def test_a_state_that_does_not_continue_the_one_before_is_found_out(run: Run) -> None:
    run.alter(WINDOWS[2], state_before=Digest(bytes(32)))
    audit = run.audit(WINDOWS[2])[WINDOWS[2]]
    assert audit.outcome is Outcome.DIFFERENT
    assert "ended with" in audit.difference


def test_a_log_that_was_exchanged_breaks_the_chain_after_it(run: Run) -> None:
    log = dataclasses.replace(run.log(WINDOWS[1]), without_variance=99)
    run.store.put(training_log_key(WINDOWS[1]), SignedLog.sign(log, run.network.signers["trainer"]).encode())
    audit = run.audit(WINDOWS[2])[WINDOWS[2]]
    assert audit.outcome is Outcome.DIFFERENT
    assert "not the one that it follows" in audit.difference


def test_a_turned_bit_in_an_anchor_is_found_out(run: Run) -> None:
    anchor = SignedAnchor.decode(run.store.get(anchor_key(WINDOWS[1]), max_bytes=2**20)).anchor
    (folder,) = run.network.root.glob(f"buckets/bucket-trainer/grail/anchors/{WINDOWS[1]}")
    path = folder / anchor.parts[0].sha256.hex()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = run.audit(WINDOWS[2])
    assert done[WINDOWS[2]].outcome is Outcome.DIFFERENT
    assert "not the bytes" in done[WINDOWS[2]].difference
    assert run.audit(WINDOWS[1])[WINDOWS[1]].outcome is Outcome.DIFFERENT


def test_a_file_that_is_gone_cannot_be_audited_and_says_nothing_of_the_trainer(run: Run) -> None:
    digest = run.log(WINDOWS[0]).files[0].content_digest
    for name in ("validator-0", "validator-1"):
        run.network.participant(name).own_store.delete(file_key(digest))
    done = run.audit()
    outcomes = [done[window].outcome for window in WINDOWS]
    assert outcomes == [Outcome.UNAUDITABLE, Outcome.UNAUDITABLE, Outcome.EQUAL]
    assert digest.hex() in done[WINDOWS[0]].difference


def test_verdicts_that_are_gone_leave_open_what_was_accepted_and_nothing_else(run: Run) -> None:
    run.network.participant("validator-0").own_store.delete(verdict_key(WINDOWS[0]))
    audit = run.audit(WINDOWS[0])[WINDOWS[0]]
    assert audit.outcome is Outcome.EQUAL
    assert any("cannot be had" in one for one in audit.taken)


def test_two_manifests_for_one_place_are_found_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise EquivocationError("the trainer signed two manifests for sequence 1", where="both")

    monkeypatch.setattr(Auditor, "_way", refused)
    audit = run.audit(WINDOWS[0])[WINDOWS[0]]
    assert audit.outcome is Outcome.DIFFERENT
    assert "two manifests" in audit.difference


def test_a_verdict_that_nobody_gave_lets_no_file_in_that_the_others_refuse(run: Run) -> None:
    """A made-up digest behind a small stake, and a file that no verdict accepts."""
    log = run.log(WINDOWS[0])
    least = list(log.verdicts)[-1]
    other = dataclasses.replace(log.files[0], content_digest=Digest(bytes(32)))
    run.alter(WINDOWS[0], verdicts=dict(log.verdicts) | {least: Digest(bytes(32))}, files=(other, *log.files))
    audit = run.audit(WINDOWS[0])[WINDOWS[0]]
    assert audit.outcome is Outcome.DIFFERENT
    assert "too few verdicts can have accepted" in audit.difference
    assert any("where another one lies" in one for one in audit.taken)


def excused(member: BatchMember) -> DroppedGroup:
    return DroppedGroup(member.hotkey, member.content_digest, member.group, "a device failed", own_fault=True)


def test_a_fault_of_the_trainers_machine_excuses_what_it_names_and_nothing_else(run: Run) -> None:
    log = run.log(WINDOWS[2])
    run.alter(WINDOWS[2], groups=log.groups[1:], dropped=(excused(log.groups[-1]),), dropped_total=1)
    audit = run.audit(WINDOWS[2])[WINDOWS[2]]
    assert audit.outcome is Outcome.DIFFERENT
    assert "without what the trainer's machine failed at" in audit.difference
    run.alter(WINDOWS[2], groups=log.groups[1:], dropped=(excused(log.groups[0]),), dropped_total=1)
    audit = run.audit(WINDOWS[2])[WINDOWS[2]]
    assert "state after" in audit.difference  # the batch is right; this log's state was learned from all groups
    assert any("are what the rules give without these" in one for one in audit.checked)


def test_a_file_that_the_trainers_machine_failed_at_keeps_what_was_verified_of_it(run: Run) -> None:
    log = run.log(WINDOWS[2])
    whole = dataclasses.replace(excused(log.groups[0]), group=None)
    others = tuple(one for one in log.groups if one.hotkey != log.groups[0].hotkey)
    for groups in (others, log.groups):
        run.alter(WINDOWS[2], groups=groups, dropped=(whole,), dropped_total=1)
        audit = run.audit(WINDOWS[2])[WINDOWS[2]]
        assert "the batch is" not in audit.difference
    run.alter(WINDOWS[2], groups=log.groups[::-1], dropped=(whole,), dropped_total=1)
    assert "without what" in run.audit(WINDOWS[2])[WINDOWS[2]].difference


def test_where_both_machines_fail_at_a_group_the_rest_is_audited(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one miner's group that nobody can decide would keep every window from being audited."""
    log = run.log(WINDOWS[2])
    learnable = batch._learnable

    def failing(submission: Any, candidate: Any, *more: Any) -> Any:
        one = log.groups[0]
        at_it = (candidate.hotkey, candidate.group) == (one.hotkey, one.group)
        return excused(one) if at_it else learnable(submission, candidate, *more)

    monkeypatch.setattr(batch, "_learnable", failing)
    assert run.audit(WINDOWS[2])[WINDOWS[2]].outcome is Outcome.UNAUDITABLE
    run.alter(WINDOWS[2], groups=log.groups[1:], dropped=(excused(log.groups[0]),), dropped_total=1)
    audit = run.audit(WINDOWS[2])[WINDOWS[2]]
    assert any(f"{len(log.groups) - 1} groups" in one for one in audit.checked), audit


def test_what_nobody_thought_of_costs_the_audit_of_its_window_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, log: TrainingLog, audit: WindowAudit) -> None:
        if log.window == WINDOWS[0]:
            raise KeyError("base")

    monkeypatch.setattr(Auditor, "_say_origin", broken)
    done = run.audit()
    assert [done[window].outcome for window in WINDOWS] == [Outcome.UNAUDITABLE, Outcome.UNAUDITABLE, Outcome.EQUAL]
    assert "KeyError" in done[WINDOWS[0]].difference


@pytest.mark.heavy
def test_weights_from_elsewhere_are_told_where_a_state_begins_with_them(trained: Run, tmp_path: Path) -> None:
    run = trained.copy(tmp_path / "copy")
    between, window = Window(WINDOWS[-1] + 30), Window(WINDOWS[-1] + 60)
    run.network.advance_to(between + 1)
    by_hand = publish_folder(run.network.participant("trainer"), run.model, ENVIRONMENT)
    train(run, [window])
    assert run.log(window).origin == by_hand.digest
    audit = run.audit(window)[window]
    assert audit.outcome is Outcome.EQUAL, audit.difference
    assert any("no training log names them" in one for one in audit.taken)
    before = run.log(WINDOWS[-1])
    log = dataclasses.replace(run.log(window), number=before.number + 1, origin=before.origin, state_before=before.state_after)
    run.store.put(training_log_key(window), SignedLog.sign(log, run.network.signers["trainer"]).encode())
    audit = run.audit(window)[window]
    assert audit.outcome is Outcome.DIFFERENT
    assert "came in between window" in audit.difference


def train_and_publish_another(run: Run, window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is learned from, and its checkpoint has one tensor with its sign turned."""
    publish = Publisher._publish

    def other(self: Publisher, parts: Any, state: dict[str, Any]) -> Any:
        name = sorted(state)[0]
        return publish(self, parts, state | {name: -state[name]})

    monkeypatch.setattr(Publisher, "_publish", other)
    train(run, [window])
    monkeypatch.undo()


@pytest.mark.heavy
def test_on_another_machine_too_a_window_with_an_anchor_publishes_its_own_weights(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state and its anchor are right, and the checkpoint and the root of its weights are of something else."""
    run, window = trained.copy(tmp_path / "copy"), Window(WINDOWS[-1] + 30)
    train_and_publish_another(run, window, monkeypatch)
    log = run.log(window)
    assert log.anchor is not None
    assert log.checkpoint is not None
    log = dataclasses.replace(log, weights_root=log.checkpoint.weights_root)
    run.store.put(training_log_key(window), SignedLog.sign(log, run.network.signers["trainer"]).encode())
    another = dataclasses.replace(machine_facts("cpu"), processor="another")
    monkeypatch.setattr(auditor, "machine_facts", lambda device: another)
    monkeypatch.setattr(auditor, "learn_window", _other_sums)
    audit = run.audit(window)[window]
    assert audit.outcome is Outcome.DIFFERENT, audit
    assert "not the cast of its anchor" in audit.difference


@pytest.mark.heavy
def test_a_trainer_that_learns_from_another_batch_than_it_names_is_found_out(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names what the rules give, and learns from the half that it likes."""

    def of_one(masters: Any, groups: Any, settings: HyperParameters, **more: Any) -> Any:
        return learn_window(masters, groups[:1], settings, **more)

    run = trained.copy(tmp_path / "copy")
    monkeypatch.setattr(shell, "learn_window", of_one)
    window = Window(WINDOWS[-1] + 30)
    train(run, [window])
    monkeypatch.undo()
    audit = run.audit(window)[window]
    assert audit.outcome is Outcome.DIFFERENT
    assert "state after" in audit.difference


@pytest.mark.heavy
def test_a_trainer_that_publishes_other_weights_than_it_learned_is_found_out(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, window = trained.copy(tmp_path / "copy"), Window(WINDOWS[-1] + 30)
    train_and_publish_another(run, window, monkeypatch)
    audit = run.audit(window)[window]
    assert audit.outcome is Outcome.DIFFERENT
    assert "does not carry the weights" in audit.difference


@pytest.mark.heavy
def test_a_trainer_that_lost_its_state_begins_anew_from_its_checkpoint_and_says_so(trained: Run, tmp_path: Path) -> None:
    run = trained.copy(tmp_path / "copy")
    shutil.rmtree(run.network.root / "state" / "trainer")
    window = Window(WINDOWS[-1] + 30)
    train(run, [window])
    assert run.log(window).origin == run.log(WINDOWS[-1]).checkpoint.digest  # type: ignore[union-attr]
    assert run.audit(window)[window].outcome is Outcome.EQUAL


def test_where_machines_differ_the_facts_are_named_and_the_distance_is_told(run: Run) -> None:
    """The trainer says that it ran on what this machine is not: then the bits are not asked for, and the distance is."""
    log = run.log(WINDOWS[2])
    machine = dataclasses.replace(log.machine, processor="another", packages=dict(log.machine.packages) | {"torch": "0"})
    run.alter(WINDOWS[2], machine=machine)
    audit = run.audit(WINDOWS[2])[WINDOWS[2]]
    assert audit.outcome is Outcome.EQUAL
    assert len(audit.machine) == 2
    run.alter(WINDOWS[2], machine=machine, settings=with_knob(log, "optimiser", "learning_rate", "0.0005"))
    audit = run.audit(WINDOWS[2])[WINDOWS[2]]
    assert audit.outcome is Outcome.DIFFERENT
    assert audit.distance is not None
    assert (audit.distance.relative or 0) > CLOSE


def test_a_window_of_several_ranks_is_told_its_distance_and_why_no_bit_is_asked_for(run: Run) -> None:
    """Here one process repeats what, by its log, two ranks learned: with a state that is nobody else's to the bit."""
    machine = dataclasses.replace(run.log(WINDOWS[2]).machine, world_size=2)
    run.alter(WINDOWS[2], machine=machine, state_after=Digest(bytes(32)))
    audit = run.audit(WINDOWS[2])[WINDOWS[2]]
    assert audit.outcome is Outcome.CLOSE
    assert audit.distance is not None
    assert audit.distance.relative == 0.0  # the checkpoint that is out is the one of one process
    (why,) = audit.machine
    assert why.startswith("world_size: 1 here, 2 there (so many ranks")
    assert f"  machine  {why}" in audit.lines()
    run.alter(WINDOWS[2], machine=dataclasses.replace(machine, world_size=1), state_after=Digest(bytes(32)))
    assert run.audit(WINDOWS[2])[WINDOWS[2]].outcome is Outcome.DIFFERENT


def _other_sums(masters: Any, groups: Any, settings: HyperParameters, **more: Any) -> Any:
    """The same update in smaller passes: other orders of the same sums."""
    update = dataclasses.replace(settings.update, tokens_per_pass=200)
    return learn_window(masters, groups, dataclasses.replace(settings, update=update), **more)


def _other_numerics(masters: Any, groups: Sequence[RolloutGroup], settings: HyperParameters, **more: Any) -> Any:
    """Behaviour log-probabilities as another class of machine computes them: off by a hundredth of a nat."""
    random = np.random.default_rng(1)

    def off(rollout: Rollout) -> Rollout:
        noise = random.normal(0, 0.01, len(rollout.behaviour))
        return dataclasses.replace(rollout, behaviour=(rollout.behaviour + noise).astype(np.float32))

    noisy = [dataclasses.replace(group, rollouts=tuple(map(off, group.rollouts))) for group in groups]
    return learn_window(masters, noisy, settings, **more)


def _without_one(masters: Any, groups: Any, settings: HyperParameters, **more: Any) -> Any:
    return learn_window(masters, groups[1:], settings, **more)


def _twice_the_rate(masters: Any, groups: Any, settings: HyperParameters, **more: Any) -> Any:
    masters.settings = dataclasses.replace(masters.settings, learning_rate=2 * masters.settings.learning_rate)
    return learn_window(masters, groups, settings, **more)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("update", "least", "most"),
    [(_other_sums, 0.0, 0.001), (_other_numerics, 0.0, 0.1), (_without_one, CLOSE, 2.0), (_twice_the_rate, CLOSE, 2.0)],
)
def test_the_bound_of_close_parts_another_machines_numbers_from_another_update(
    run: Run, monkeypatch: pytest.MonkeyPatch, update: Any, least: float, most: float
) -> None:
    other = dataclasses.replace(machine_facts("cpu"), processor="another")
    monkeypatch.setattr(auditor, "machine_facts", lambda device: other)
    monkeypatch.setattr(auditor, "learn_window", update)
    for window, audit in run.audit().items():
        far = (audit.distance.relative or 0.0) if audit.distance is not None else 0.0
        print(f"{update.__name__} window {window}: {audit.distance}")
        assert least <= far <= most
        assert audit.outcome is (Outcome.DIFFERENT if far > CLOSE else Outcome.CLOSE)
