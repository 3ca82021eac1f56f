"""Family B: text that was not sampled as assigned fails, though it is proved with the right model; the honest twin passes.

Scene as in `test_proof_forgery`; the published table is `hatch run attacks --family B`.
"""

from __future__ import annotations

import pytest

from tooling.adversaries import family_b
from tooling.adversaries.rows import Row
from tooling.adversaries.scene import BRIEF, Scene, run_deviations


def no_try_got_through(row: Row) -> None:
    assert row.tries
    assert [(one.name, one.message) for one in row.tries if one.accepted] == []
    assert row.honest_tries > 0
    assert row.honest_false_rejects == 0


@pytest.mark.parametrize("name", ["wrong seeds", "best of 2", "greedy", "temperature × 0.7", "smaller model, right prefill"])
def test_one_group_is_enough_against(scene: Scene, name: str) -> None:
    row = run_deviations(scene, Row("B", "file"), [name], 1)
    no_try_got_through(row)
    assert {one.caught_by for one in row.tries} == {"sampling"}


@pytest.mark.parametrize("name", ["temperature × 0.9", "top-p 0.95"])
def test_half_a_window_is_enough_against(scene: Scene, name: str) -> None:
    no_try_got_through(run_deviations(scene, Row("B3", "file"), [name], BRIEF.window_groups))


@pytest.mark.parametrize("id_", ["B4", "B5", "B6", "B7"])
def test_text_that_no_sampling_gave_is_rejected(scene: Scene, id_: str) -> None:
    no_try_got_through(family_b.RUNS[id_](scene))


def test_ends_in_the_wrong_place_are_refused_before_any_model_runs(scene: Scene) -> None:
    assert {one.caught_by for one in family_b.run_b6(scene).tries} == {"termination"}


def test_false_log_probabilities_are_rejected(scene: Scene) -> None:
    row = family_b.run_b8(scene)
    no_try_got_through(row)
    assert {one.caught_by for one in row.tries} == {"logprob"}
