"""Whom the aggregator merges, and that it makes the same checkpoints whatever fails around it.

A first round is merged and judged, and a second one trained; every test plays the second on in a copy.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grail_core.errors import EnvironmentUnavailableError, StorageError
from grail_core.participant.lead_body import lead_body
from grail_core.participant.round_models import RoundModel, float32_weights
from grail_core.proof.inner import Trained
from grail_core.protocol.context import WindowContext
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.merged import Merged
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import OPENING_PREFIX, UPDATE_PREFIX
from grail_core.verification.gradient.files import examine_file
from grail_envs.corpus.bytes_1 import Bytes1
from grail_miner.gradient.state import Feedback
from grail_miner.gradient.training import Compressed, Training
from grail_trainer.gradient_presets import TINY
from grail_trainer.merging.candidates import Lead
from grail_trainer.merging.service import Aggregator, lead_of
from tooling.testing.driven_chain import Driven, Unhurried
from tooling.testing.faults import Faulty, always, events, faulty, first
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_round import GradientRound
from tooling.testing.network import FIRST_WINDOW

SPEC = replace(TINY, peers=4)
SECOND, THIRD = Window(FIRST_WINDOW + 30), Window(FIRST_WINDOW + 60)
HONEST = tuple(f"miner-{number}" for number in range(5))
HARMFUL, FAILED = "miner-5", "miner-6"


class Harmful(Training):
    """Climbs: −Δ, with everything else to fit."""

    def train(self, context: RoundContext, model: RoundModel, batches: object) -> Trained:
        done = super().train(context, model, batches)  # type: ignore[arg-type]
        climbed = {name: value + done.delta[name] for name, value in model.theta.items()}
        last = max(done.states)
        states = {**done.states, last: replace(done.states[last], theta=climbed)}
        delta = {name: model.theta[name] - value for name, value in climbed.items()}
        return replace(done, states=states, delta=delta)


class Lying(Training):
    """Sends other values than it trained."""

    def compress(self, context: RoundContext, model: RoundModel, trained: Trained, feedback: Feedback | None) -> Compressed:
        noise = {name: np.flip(value, 0).copy() for name, value in trained.delta.items()}
        return super().compress(context, model, replace(trained, delta=noise), feedback)


FACTORIES: Mapping[str, type[Training]] = {HARMFUL: Harmful, FAILED: Lying}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> GradientRound:
    """Of the first round the lead body says: miner-6 failed, and miner-4 has never been there."""
    network = GradientNetwork(tmp_path_factory.mktemp("merge") / "network", SPEC, miners=7, validators=2)
    one = GradientRound.trained(network, FIRST_WINDOW, (*HONEST[:4], FAILED), batches={"miner-3": 8}, factories={FAILED: Lying})
    one.play()
    one.end()
    network.miner(FAILED).state.forget_feedback()
    return GradientRound.trained(network, SECOND, (*HONEST, HARMFUL, FAILED), factories={HARMFUL: Harmful})


@pytest.fixture
def played(begun: GradientRound, tmp_path: Path) -> GradientRound:
    return begun.over(begun.network.copied(tmp_path / "network"))


def merged_of(manifest: CheckpointManifest | None) -> Merged:
    assert manifest is not None
    return Merged.from_json(dict(manifest.training))


def names_of(one: GradientRound, manifest: CheckpointManifest | None) -> set[str]:
    hotkeys = {update.hotkey for update in merged_of(manifest).merged}
    return {name for name in one.network.miners if one.hotkey(name) in hotkeys}


def window_of(one: GradientRound) -> WindowContext:
    return one.network.participant("trainer").open_window(one.context.round)


def driven(one: GradientRound, **handles: object) -> Aggregator:
    """The shipped aggregator, whose clock goes where it is waited for."""
    return one.network.aggregator(chain=Driven(one.network.chain, one.context.round + 60), **handles)


def test_failing_ones_are_left_out_and_harm_is_dropped_and_both_are_said(played: GradientRound) -> None:
    names = ("miner-0", "miner-1", HARMFUL, FAILED)
    played.play(*names)
    with events() as said:
        manifest = played.merge()
    assert names_of(played, manifest) == {"miner-0", "miner-1"}
    merged = merged_of(manifest)
    (harmful,) = merged.dropped
    neuron = played.network.chain.metagraph().by_hotkey(played.hotkey(HARMFUL))
    assert neuron is not None
    assert harmful.uid == neuron.uid
    assert harmful.score < 0
    assert said.count("update_not_merged") == 2
    assert merged.lead_body == _lead(played).digest


def _lead(one: GradientRound) -> Lead:
    network = one.network
    return lead_of(lead_body(network.participant("trainer"), one.context, seconds=5.0), one.context)


def test_the_order_is_that_of_the_lead_bodys_f_with_seats_for_who_was_never_checked(played: GradientRound) -> None:
    played.play(*HONEST)
    lead = _lead(played)
    powers = {name: lead.powers[played.hotkey(name)] for name in HONEST}
    assert powers["miner-4"] == 0
    assert max(powers, key=lambda name: powers[name]) == "miner-3", "it did twice the work"
    worst = min(HONEST[:4], key=lambda name: (powers[name], -int(name[-1])))
    assert names_of(played, played.merge()) == set(HONEST) - {worst}, "a fifth of four seats, rounded up, is a newcomer's"
    assert played.hotkey("miner-4") not in lead.checked


def test_without_a_lead_body_everybody_is_a_newcomer_and_the_round_is_merged(played: GradientRound) -> None:
    played.play(*HONEST[:3])
    aggregator = played.network.aggregator()
    played.network.advance_to(played.context.times.reveal_block + 1)
    manifest = aggregator.aggregate(played.context, played.challenge, None)
    assert names_of(played, manifest) == set(HONEST[:3])
    assert merged_of(manifest).lead_body is None


def test_one_candidate_is_merged_alone(played: GradientRound) -> None:
    played.play("miner-1")
    assert names_of(played, played.merge()) == {"miner-1"}


@pytest.mark.parametrize("names", [(), (HARMFUL,), (FAILED,)])
def test_where_nobody_can_be_merged_there_is_no_checkpoint_and_the_next_round_trains_the_same(
    played: GradientRound, names: tuple[str, ...]
) -> None:
    if names:
        played.play(*names)
    assert played.merge() is None
    played.network.advance_to(THIRD + 1)
    assert played.network.round(THIRD).manifest == played.context.manifest


def test_a_merge_that_is_called_again_finds_what_it_did_whatever_lies_in_the_buckets_by_then(played: GradientRound) -> None:
    played.play(*HONEST[:2])
    manifest = played.merge()
    played.remove("miner-0", "update")
    assert played.merge() == manifest
    assert manifest is not None
    assert len(played.network.participant("trainer").own_checkpoints.sequence().stored) == 3


def test_a_late_merge_costs_the_next_round_its_own_and_no_round_after_it_trains_older_weights(played: GradientRound) -> None:
    played.play(*HONEST[:3])
    played.network.advance_to(played.context.times.checkpoint_block + 1)
    late = played.merge()
    assert late is not None
    assert late.valid_from == THIRD + 30, "the next round is past"
    third = GradientRound.trained(played.network, THIRD, HONEST[:2])
    assert third.context.manifest == played.context.manifest, "readers train what was in time"
    third.play()
    assert third.merge() is None, "it would come into force a round late, and every merge after it"
    fourth = GradientRound.trained(played.network, Window(THIRD + 30), HONEST[:2])
    assert fourth.context.manifest == late
    fourth.play()
    on_top = fourth.merge()
    assert on_top is not None
    assert (on_top.parent, on_top.sequence, on_top.valid_from) == (late.digest, late.sequence + 1, THIRD + 60)


def test_objects_that_come_after_their_manifest_are_uploaded_after_a_restart_too(played: GradientRound) -> None:
    played.play(*HONEST[:2])
    network = played.network
    directory = network.directory("trainer")
    store = Faulty(directory.own(), put=lambda call: None)
    refusing = faulty(directory)
    refusing.own = lambda: store
    aggregator = network.aggregator(directory=refusing)
    network.advance_to(played.context.times.reveal_block + 1)
    manifest = aggregator.aggregate(played.context, played.challenge, aggregator.lead(played.context))
    assert manifest is not None
    missing = [ref for ref in manifest.objects() if directory.own().head(f"grail/objects/{ref.hex()}") is None]
    assert missing, "its parts come after it"
    store.outcomes["put"] = always(StorageError("full"))
    with events() as said:
        aggregator.complete()
    assert "objects_late" in said
    network.aggregator().complete()
    assert all(directory.own().head(f"grail/objects/{ref.hex()}") is not None for ref in missing)
    weights = float32_weights(network.participant("validator-1").checkpoints.materialise(manifest))
    theirs = float32_weights(network.participant("trainer").checkpoints.materialise(manifest))
    assert all(np.array_equal(weights[name], theirs[name]) for name in theirs)


def test_a_round_is_merged_though_the_store_fails_for_a_while(played: GradientRound) -> None:
    played.play(*HONEST[:2])
    healing = faulty(played.network.directory("trainer"))
    store = faulty(healing.inner.own(), put=first(2, StorageError("not now")))
    healing.own = lambda: store
    assert driven(played, directory=healing).round(window_of(played), Unhurried()) is not None


def test_a_store_that_takes_nothing_costs_the_round_and_not_the_ones_after_it(played: GradientRound) -> None:
    played.play(*HONEST[:2])
    directory = played.network.directory("trainer")
    gone = faulty(directory)
    store = faulty(directory.own(), put=always(StorageError("gone")))
    gone.own = lambda: store
    stop = Unhurried(lambda _: played.network.chain.advance(10))
    assert driven(played, directory=gone).round(window_of(played), stop) is None
    assert played.network.chain.current_block() <= played.context.times.reveal_block + 40
    assert driven(played).round(window_of(played), threading.Event()) is not None


def test_a_corpus_that_is_nowhere_costs_the_round_and_not_the_aggregator(played: GradientRound) -> None:
    played.play(*HONEST[:2])
    aggregator = driven(played)

    def nowhere(_: object) -> Bytes1:
        raise EnvironmentUnavailableError("the corpus is not here")

    aggregator.corpus_of = nowhere
    with events() as said:
        assert aggregator.round(window_of(played), threading.Event()) is None
    assert "round_not_merged" in said


def test_strangers_bytes_are_left_out_of_the_merge_with_a_reason(played: GradientRound) -> None:
    played.play(*HONEST[:2])
    played.store(HARMFUL, "seal", b"[" * 1024)
    played.store("miner-2", "seal", bytes(10_000_000))
    played.store("miner-3", "seal", played.pending["miner-0"].seal)
    assert names_of(played, played.merge()) == set(HONEST[:2])


def test_an_error_that_nobody_foresaw_costs_whoever_caused_it(played: GradientRound, monkeypatch: pytest.MonkeyPatch) -> None:
    played.play(*HONEST[:2])
    real, bad = examine_file, played.hotkey("miner-0")

    def failing(round, sealer, update, opening):  # type: ignore[no-untyped-def]
        if sealer.hotkey == bad:
            raise IndexError("unforeseen")
        return real(round, sealer, update, opening)

    monkeypatch.setattr("grail_trainer.merging.candidates.examine_file", failing)
    assert names_of(played, played.merge()) == {"miner-1"}


def test_updates_and_openings_are_read_at_once_so_that_a_store_which_drips_takes_its_time_only_once(
    played: GradientRound,
) -> None:
    played.play("miner-0", "miner-1")
    directory, asked = played.network.directory("trainer"), threading.Event()
    slow = played.network.directory("miner-1").commitment()

    class Waiting:
        """Gives the update once somebody has asked for the opening."""

        def __init__(self, inner: ObjectStore) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def read(self, key: str, **limits: int) -> object:
            if key.startswith(OPENING_PREFIX):
                asked.set()
            if key.startswith(UPDATE_PREFIX) and not asked.wait(20):
                raise StorageError("nobody asks for the opening")
            return self.inner.read(key, **limits)

    both = faulty(directory)
    both.open = lambda said: Waiting(directory.open(said)) if said == slow else directory.open(said)
    aggregator = driven(played, directory=both)
    lead = aggregator.lead(played.context)
    manifest = aggregator.aggregate(played.context, played.challenge, lead)
    assert names_of(played, manifest) == {"miner-0", "miner-1"}
