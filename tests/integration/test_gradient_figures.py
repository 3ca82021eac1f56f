"""What the figures of gradient work are measured on: the same work as the services do, counted as it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from grail_core.gradient.update_file import sketch_rows, split
from grail_core.proof.losses import sequence_losses
from grail_core.proof.round_work import LOSS_SCALE, Scored
from grail_core.proof.trained_model import I32
from grail_trainer.gradient_presets import TINY
from tooling.rounds.reference import reference
from tooling.studies.benchmarks import gradient_lean
from tooling.studies.benchmarks.__main__ import main
from tooling.studies.benchmarks.gradient_costs import NAME, Checks, Scoring, judging_figures
from tooling.studies.benchmarks.gradient_lean import LeanNetwork
from tooling.studies.benchmarks.gradient_loss import ratios
from tooling.studies.benchmarks.gradient_own import EMA_PASSES, History, equal_error, figures_of, played
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.network import FIRST_WINDOW
from tooling.testing.played_rounds import PlayedRound, play_round

STEEP = replace(TINY, learning_rates=((0, 8_000_000),), common=16, guard=16)
"""Rates so great that two rounds show something, on few sequences."""


@pytest.fixture(scope="module")
def round_played(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    network = GradientNetwork(tmp_path_factory.mktemp("figures"), TINY, miners=2, validators=0)
    return play_round(network, network.miners, FIRST_WINDOW)


@dataclass(frozen=True, eq=False)
class SameRows(LeanNetwork):
    """The lean network with the sequences of a round that services played."""

    given: tuple[tuple[I32, ...], ...] = ()

    def batches(self, number: int, uid: int, batch: int) -> list[I32]:
        return list(self.given[uid])


def test_rounds_without_stores_send_the_bytes_that_the_shipped_miners_send(round_played: PlayedRound) -> None:
    scene, lean = round_played.scene, LeanNetwork.of(TINY, round_played.network.seed)
    revealed = [round_played.revealed(name) for name in round_played.network.miners]
    rows = tuple(tuple(scene.batch(one, step) for step in range(TINY.inner_steps)) for one in revealed)
    same = SameRows(lean.spec, lean.seed, lean.model, lean.start, lean.corpus, rows)
    (done,) = same.play([4, 4], 1)
    for name, streams in zip(round_played.network.miners, done.updates, strict=True):
        update = round_played.objects(name)[1].data
        assert update is not None
        assert streams == split(update, same.layout, TINY, sketch_rows(4)).streams


def test_a_score_is_held_against_passes_that_give_the_same_losses(round_played: PlayedRound) -> None:
    scoring = Scoring.of(round_played)
    before, after = scoring.score()
    assert [len(one) for one in (before, *after)] == [16, 64, 16]
    assert not np.array_equal(before, after[1])
    scoring.scene.trained.set(scoring.scene.theta)
    bare = [part.view(16, -1)[:, :-1].double().mean(dim=1) for part in scoring.forward()]
    assert len(bare) == 6
    assert np.array_equal(np.rint(bare[0].numpy() * LOSS_SCALE).astype(np.int32), before)
    common = sequence_losses(scoring.scene.trained, scoring.common)
    assert np.array_equal(np.rint(np.concatenate(bare[1:5]) * LOSS_SCALE).astype(np.int32), common)


def test_shares_are_of_checks_that_accept_the_file(round_played: PlayedRound) -> None:
    figures = judging_figures(round_played, repeats=1)
    assert figures["gradient.check_share"] == pytest.approx(figures["gradient.check_ms"] / figures["gradient.score_ms"])
    assert min(figures.values()) > 0
    of_another = replace(Checks.of(round_played, NAME), update=round_played.objects("miner-1")[1])
    with pytest.raises(AssertionError, match="other bytes than those that were sealed"):
        of_another.check()


def test_the_process_beside_the_rounds_has_all_their_sequences_once_in_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_lean, "HELD_OUT", 16)
    found = ratios(STEEP, seed=0, rounds=2, miners=2)
    assert found["loss_ratio"] == found["loss"] / found["loss.adamw"]
    network = LeanNetwork.of(STEEP, 0)
    batches = [
        np.concatenate([network.batches(number, uid, 4)[step] for uid in range(2)])
        for number in range(2)
        for step in range(STEEP.inner_steps)
    ]
    curve = reference(network.model, network.start, batches, STEEP, network.held_out).losses
    assert len(curve) == 3
    assert curve[-1] == found["loss.adamw"]
    assert max(found["loss"], found["loss.adamw"], found["loss.adamw_small_batch"]) < curve[0]


def test_an_update_shows_the_data_it_was_made_with_and_no_others() -> None:
    run = played(STEEP, seed=1, rounds=2, miners=4)
    assert all(own.z(2) > other.z(2) for own, other in zip(run.honest, run.without, strict=True))
    figures = figures_of([run], [2])
    assert figures["gradient.own_error"] == 0 < figures["gradient.own_error.fit"] < 0.5
    assert figures["gradient.own_error.miners"] == 4
    assert figures["gradient.own_z"] > 1 > figures["gradient.own_z.without"]


def test_the_peers_average_counts_who_gains_more_on_its_own_data() -> None:
    def scored(gains: Sequence[int]) -> Scored:
        before = np.full(len(gains), 1000, np.int32)
        return Scored(before, before - np.array(gains, np.int32))

    more, less, shared = scored([30, 10]), scored([1, 3]), scored([6, 4])
    history = History().then(more, shared).then(more, shared).then(less, shared)
    assert history.average == pytest.approx((0.05, 0.0975, 0.042625))
    assert history.average[1] <= EMA_PASSES < 1 - 0.95**3
    assert [one.value > 0 for one in history.advantages] == [True, True, False]


def test_the_equal_error_is_where_both_kinds_are_as_often_taken_for_the_other() -> None:
    assert equal_error([3, 4, 5], [0, 1, 2]) == 0
    assert equal_error([1, 4, 5, 6], [0, 1, 2, 4.5]) == pytest.approx(0.25)
    assert equal_error([0, 1, 2], [3, 4, 5]) == 1


def test_a_quick_look_is_asked_of_no_other_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["env", "--quick"])
    assert "--quick belongs to gradient" in capsys.readouterr().err
