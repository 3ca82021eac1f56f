"""Family A: a proof that was not computed with the right model from the right tokens fails; the honest twin passes.

The model is tiny but trained (seconds), the network is real and in this process, and every try is a signed file that goes
through the validator's own checks. The published table is `hatch run attacks --family A`, with a larger model and all sizes.
"""

from __future__ import annotations

import pytest

from tooling.adversaries import family_a
from tooling.adversaries.rows import Row
from tooling.adversaries.scene import BRIEF, Scene, run_deviations


def no_try_got_through(row: Row) -> None:
    assert row.tries
    assert [(one.name, one.message) for one in row.tries if one.accepted] == []
    assert row.honest_tries > 0
    assert row.honest_false_rejects == 0


@pytest.mark.parametrize("id_", ["A1", "A3", "A6", "A8", "A9", "A10"])
def test_a_forged_proof_is_rejected_and_its_honest_twin_is_not(scene: Scene, id_: str) -> None:
    no_try_got_through(family_a.RUNS[id_](scene))


def test_malformed_sketches_are_refused_before_any_model_runs(scene: Scene) -> None:
    row = family_a.run_a1(scene)
    assert {one.caught_by for one in row.tries} <= {"file", "schema"}


@pytest.mark.parametrize("scale", ["0.5", "100", "heavy-tailed"])
def test_sketches_without_a_model_fail_at_every_scale_of_the_hidden_states(scene: Scene, scale: str) -> None:
    row = family_a.run_a2(scene, [scale])
    no_try_got_through(row)
    assert {one.caught_by for one in row.tries} == {"proof"}


def test_another_prompt_fails_openly_by_the_prompt_check_and_hidden_by_the_model_checks(scene: Scene) -> None:
    row = family_a.run_a7(scene)
    no_try_got_through(row)
    for one in row.tries:
        hidden = "assigned tokens claimed" in one.name or "right tokens claimed" in one.name
        # How far another prompt moves the hidden states is the tiny model's affair; its tokens are not the policy's either way.
        assert one.caught_by in ({"proof", "sampling"} if hidden else {"prompt"}), one


@pytest.mark.parametrize(
    "name",
    [
        "4-bit weights, per channel",
        "8-bit weights, per channel",
        "8-bit weights, groups of 32",
        "8-bit weights, groups of 64 with zero point",
        "8-bit floating-point weights",
        "4-bit weights, groups of 32, one rollout in 16 run honestly",
    ],
)
def test_rounded_weights_fail_beside_the_float32_reference(scene: Scene, name: str) -> None:
    row = run_deviations(scene, Row("A4", "file"), [name], BRIEF.window_groups)
    no_try_got_through(row)
    # Sketches and log-probabilities are as far away, or the name of a copy tells it.
    assert {one.caught_by for one in row.tries} <= {"proof", "logprob"}


def test_rounded_weights_without_the_noise_of_bf16_fail_by_the_name_of_an_alternative(scene: Scene) -> None:
    row = run_deviations(scene, Row("A4", "file"), ["8-bit weights, float32 activations"], BRIEF.window_groups)
    no_try_got_through(row)
    assert all("log-evidence that int8" in one.message for one in row.tries)


def test_the_checkpoint_before_fails_by_what_is_relative_to_the_own_drift(scene: Scene) -> None:
    row = run_deviations(scene, Row("A5", "file"), ["previous checkpoint, lr 1e-5"], BRIEF.window_groups)
    no_try_got_through(row)
    assert {one.caught_by for one in row.tries} <= {"proof", "logprob"}


def test_a_skipped_layer_fails(scene: Scene) -> None:
    no_try_got_through(run_deviations(scene, Row("A11", "file"), ["middle layer skipped"], BRIEF.window_groups))
