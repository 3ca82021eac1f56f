"""Promises of the alarms: each fires on the real update, does what it is set to, and stays silent where all is well."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError
from grail_trainer.alarm_settings import AlarmAction, AlarmSettings
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.learning import guarded
from grail_trainer.learning.alarms import (
    LASTING,
    LEARNING_RATE_FACTOR,
    LEAST_FACTOR,
    RULES,
    STOPPED_AT,
    Alarm,
    raised,
    remembered,
)
from grail_trainer.learning.guarded import LearnedWindow, learn_window
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.signs import WindowSigns
from grail_trainer.learning.statistics import UpdateStatistics
from grail_trainer.learning.update import update
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

VOCABULARY = 19
GRPO = GrpoSettings(kl_coefficient=0.0, epochs=1, minibatches=2, advantages="centred")
SILENT = AlarmSettings(**{f"on_{name}": "off" for name in RULES}, beginning=1)  # type: ignore[arg-type]
Change = Callable[[Rollout], Rollout]


def only(name: str, action: AlarmAction, **bounds: float) -> AlarmSettings:
    """This alarm alone, so that what happens is its doing."""
    return dataclasses.replace(SILENT, **{f"on_{name}": action}, **bounds)  # type: ignore[arg-type]


def masters_of(learning_rate: float = 1e-3) -> Masters:
    module = random_model(Qwen2Shape(VOCABULARY, hidden=16, heads=2, tied=True), 0)
    return Masters(module, OptimiserSettings(learning_rate=learning_rate, warmup_steps=0))


def groups_for(masters: Masters, seed: int, change: Change = lambda rollout: rollout) -> list[RolloutGroup]:
    """Two groups of four as the masters themselves would draw them, with the first two rollouts solved."""
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(2):
        rows = [TokenSequence(tuple(map(int, rng.integers(0, VOCABULARY, 9))), 4) for _ in range(4)]
        drawn = masters.policy(rows).logprob.numpy().reshape(4, 5)
        plain = [
            Rollout(row, float(place < 2), place < 2, logprobs.copy(), well_formed=place < 3)
            for place, (row, logprobs) in enumerate(zip(rows, drawn, strict=True))
        ]
        groups.append(RolloutGroup(str(number), tuple(change(rollout) for rollout in plain)))
    return groups


def learned(
    masters: Masters, alarms: AlarmSettings, window: int, change: Change = lambda rollout: rollout, *, token_limit: int = 50
) -> LearnedWindow:
    groups = groups_for(masters, window, change)
    settings = HyperParameters(GRPO, masters.settings, alarms)
    return learn_window(masters, groups, settings, window=window, temperature=1.0, token_limit=token_limit)


def drawn_by_another(rollout: Rollout) -> Rollout:
    return dataclasses.replace(rollout, behaviour=rollout.behaviour - 2)


def longer(rollout: Rollout) -> Rollout:
    row = TokenSequence(rollout.row.tokens + (1,) * 15, rollout.row.prompt_length)
    return dataclasses.replace(rollout, row=row, behaviour=np.resize(rollout.behaviour, 20))


def rewarded_a_hundredfold(rollout: Rollout) -> Rollout:
    return dataclasses.replace(rollout, reward=100 * rollout.reward)


def unmeasured(rollout: Rollout) -> Rollout:
    return dataclasses.replace(rollout, behaviour=rollout.behaviour * np.float32("nan"))


def well_formed(rollout: Rollout) -> Rollout:
    return dataclasses.replace(rollout, well_formed=True)


def without_form(rollout: Rollout) -> Rollout:
    return dataclasses.replace(rollout, well_formed=False)


def paid_for_nothing(rollout: Rollout) -> Rollout:
    return dataclasses.replace(rollout, reward=rollout.reward + 0.4)


def sharpen(masters: Masters) -> None:
    """Logits thirty times as large: hardly any entropy."""
    with torch.no_grad():
        masters.module.model.norm.weight.mul_(30)


CASES: dict[str, tuple[int, Change, dict[str, float]]] = {
    "ratio": (0, drawn_by_another, {}),
    "kl": (0, drawn_by_another, {}),
    "gradient": (3, rewarded_a_hundredfold, {}),
    "refused": (0, unmeasured, {}),
    "length": (1, longer, {}),
    "truncated": (0, longer, {"token_limit": 20}),
    "form_only": (4, well_formed, {"form_gain": 0.05}),
    "form_lost": (4, without_form, {}),
    "reward_only": (4, paid_for_nothing, {"reward_gain": 0.1}),
}
"""Alarm → windows as usual before, what is wrong with the next one's rollouts, bounds."""


def run_to(masters: Masters, alarms: AlarmSettings, case: str) -> LearnedWindow:
    usual, change, bounds = CASES[case]
    limit = int(bounds.get("token_limit", 50))
    for window in range(usual):
        assert learned(masters, alarms, window, token_limit=limit).alarms == ()
    return learned(masters, alarms, usual, change, token_limit=limit)


def alarms_for(case: str, action: AlarmAction) -> AlarmSettings:
    bounds = {name: bound for name, bound in CASES[case][2].items() if name != "token_limit"}
    return only(case, action, **bounds)


@pytest.mark.parametrize("case", CASES)
def test_each_alarm_fires_on_what_it_is_for_and_takes_the_update_back(case: str) -> None:
    masters = masters_of()
    before: dict[str, torch.Tensor] = {}
    found = run_to(masters, alarms_for(case, "tell"), case)
    assert [(alarm.name, alarm.action) for alarm in found.alarms] == [(case, "tell")]
    assert not found.undone
    assert LEARNING_RATE_FACTOR not in masters.scalars
    masters = masters_of()
    usual, change, bounds = CASES[case]
    for window in range(usual):
        learned(masters, alarms_for(case, "undo"), window)
    before = masters.tensors()
    found = learned(masters, alarms_for(case, "undo"), usual, change, token_limit=int(bounds.get("token_limit", 50)))
    assert found.undone.startswith(f"{case}: ")
    assert masters.scalars[LEARNING_RATE_FACTOR] == 0.5
    assert _same(masters.tensors(), before)


def test_collapsed_entropy_fires() -> None:
    masters = masters_of()
    alarms = only("entropy", "slow")
    assert learned(masters, alarms, 0).alarms == ()
    sharpen(masters)
    (alarm,) = learned(masters, alarms, 1).alarms
    assert (alarm.name, alarm.action) == ("entropy", "slow")
    assert alarm.value < alarm.bound
    assert masters.scalars[LEARNING_RATE_FACTOR] == 0.5


def test_a_policy_that_begins_collapsed_meets_the_floor() -> None:
    masters = masters_of()
    sharpen(masters)
    (alarm,) = learned(masters, only("entropy", "tell", entropy_floor=1.0), 0).alarms
    assert alarm.bound == 1.0


def test_half_the_rate_is_what_the_next_steps_are_made_with() -> None:
    moved = []
    for factor in (1.0, 0.5):
        masters = masters_of()
        if factor < 1:
            masters.scalars[LEARNING_RATE_FACTOR] = factor
        before = masters.tensors()["master.model.norm.weight"]
        settings = HyperParameters(dataclasses.replace(GRPO, minibatches=1), masters.settings, SILENT)
        learn_window(masters, groups_for(masters, 0), settings, window=0, temperature=1.0, token_limit=50)
        moved.append(masters.tensors()["master.model.norm.weight"] - before)
    assert torch.allclose(moved[1], moved[0] / 2, atol=1e-7)
    assert moved[0].abs().max() > 1e-4


def test_stop_takes_the_update_back_and_is_written_into_the_state_until_the_next_window(tmp_path: Path) -> None:
    masters = masters_of()
    before = masters.tensors()
    learned(masters, only("ratio", "stop"), 60, drawn_by_another)
    assert masters.scalars[STOPPED_AT] == 60
    assert _same(masters.tensors(), before)
    masters.save(tmp_path / "state")
    again = masters_of()
    again.resume(tmp_path / "state")
    assert again.scalars[STOPPED_AT] == 60
    learned(again, only("ratio", "stop"), 90)
    assert STOPPED_AT not in again.scalars


def test_weights_that_are_not_finite_are_taken_back_whatever_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(masters: Masters, *arguments: Any, **options: Any) -> UpdateStatistics:
        statistics = update(masters, *arguments, **options)
        with torch.no_grad():
            masters.module.model.norm.weight[0] = 3.4e38  # float32 holds it, what is published does not
        return statistics

    monkeypatch.setattr(guarded, "update", diverging)
    masters = masters_of()
    before = masters.tensors()
    assert [alarm.name for alarm in learned(masters, SILENT, 0).alarms] == ["not_finite"]
    assert _same(masters.tensors(), before)
    assert masters.scalars[LEARNING_RATE_FACTOR] == 0.5


def test_steps_without_a_finite_gradient_say_nothing_of_the_rest_and_are_not_remembered() -> None:
    masters = masters_of()
    found = learned(masters, AlarmSettings(), 0, unmeasured)
    assert [alarm.name for alarm in found.alarms] == ["refused"]
    assert masters.scalars == {}


def test_alarms_are_resumed_with_the_training_state(tmp_path: Path) -> None:
    straight, killed = masters_of(), masters_of()
    alarms = AlarmSettings(beginning=1, gradient_factor=1.01, entropy_share=0.9)
    expected = [learned(straight, alarms, window).alarms for window in range(6)]
    got = []
    for window in range(6):
        got.append(learned(killed, alarms, window).alarms)
        killed.save(tmp_path / "state")
        killed = masters_of()
        killed.resume(tmp_path / "state")
    assert got == expected
    assert killed.scalars == straight.scalars
    assert any(expected)


# --- rules on their own -----------------------------------------------------------------------------------------------

USUAL = WindowSigns(
    entropy=0.5,
    clip_share=0.05,
    importance_mean=1.0,
    kl_behaviour=0.01,
    kl_reference=0.01,
    gradient_norm=0.3,
    steps=12,
    steps_refused=0,
    reward_mean=0.4,
    reward_deviation=0.4,
    success_mean=0.25,
    well_formed_share=0.9,
    length_mean=10.0,
    truncated_share=0.0,
)


def follow(signs: Sequence[WindowSigns], settings: AlarmSettings) -> tuple[list[tuple[Alarm, ...]], dict[str, float]]:
    memory: dict[str, float] = {}
    found = []
    for window, now in enumerate(signs):
        alarms = raised(now, settings, memory)
        memory = remembered(now, settings, memory, alarms, window=window)
        found.append(alarms)
    return found, memory


def test_what_lasts_is_told_once_and_again_when_it_is_half_as_much_worse_or_has_come_back() -> None:
    entropies = [0.5, 0.5, 0.09, 0.08, 0.07, 0.055, 0.05, 0.4, 0.09]
    found, _ = follow([dataclasses.replace(USUAL, entropy=one) for one in entropies], AlarmSettings())
    assert [window for window, alarms in enumerate(found) if alarms] == [2, 5, 8]


def test_the_learning_rate_halves_to_a_sixty_fourth_and_comes_back_in_fours() -> None:
    wild = dataclasses.replace(USUAL, clip_share=0.9)
    _, memory = follow([wild] * 9, AlarmSettings())
    assert memory[LEARNING_RATE_FACTOR] == LEAST_FACTOR
    _, memory = follow([wild] * 9 + [USUAL] * 11, AlarmSettings())
    assert memory[LEARNING_RATE_FACTOR] == LEAST_FACTOR * 4
    _, memory = follow([wild] * 9 + [USUAL] * 24, AlarmSettings())
    assert LEARNING_RATE_FACTOR not in memory


def test_gradients_that_stay_large_become_usual_even_while_every_window_is_taken_back() -> None:
    steep = dataclasses.replace(USUAL, gradient_norm=30.0)
    found, _ = follow([USUAL] * 8 + [steep] * 8, AlarmSettings(on_gradient="undo"))
    assert [bool(alarms) for alarms in found] == [False] * 8 + [True] * 4 + [False] * 4


def test_success_that_comes_with_form_and_reward_is_no_alarm() -> None:
    better = dataclasses.replace(USUAL, well_formed_share=1.0, reward_mean=0.9, success_mean=0.6)
    assert not any(follow([USUAL] * 2 + [better] * 8, AlarmSettings(form_gain=0.05))[0])
    only_form = dataclasses.replace(better, success_mean=0.25)
    found = follow([USUAL] * 2 + [only_form] * 8, AlarmSettings(form_gain=0.05))[0]
    assert {alarm.name for alarms in found for alarm in alarms} == {"form_only", "reward_only"}


@pytest.mark.parametrize("name", RULES)
def test_off_is_off(name: str) -> None:
    extreme = WindowSigns(0.0, 1.0, 9.0, 9.0, 99.0, 99.0, 12, 6, 9.0, 0.1, 0.0, 0.0, 999.0, 1.0)
    signs = [dataclasses.replace(USUAL, well_formed_share=0.5)] * 2 + [USUAL] * 3 + [extreme]
    settings = dataclasses.replace(AlarmSettings(), **{f"on_{name}": "off"})  # type: ignore[arg-type]
    assert name not in {alarm.name for alarms in follow(signs, settings)[0] for alarm in alarms}


_SIZES = st.floats(0, 1e12)
_SHARES = st.floats(0, 1)


@given(
    st.lists(
        st.builds(
            WindowSigns,
            entropy=_SIZES,
            clip_share=_SHARES,
            importance_mean=_SIZES,
            kl_behaviour=_SIZES,
            kl_reference=_SIZES,
            gradient_norm=_SIZES,
            steps=st.integers(1, 12),
            steps_refused=st.integers(0, 1),
            reward_mean=st.floats(-1e6, 1e6),
            reward_deviation=_SIZES,
            success_mean=_SHARES,
            well_formed_share=_SHARES,
            length_mean=st.floats(1, 1e6),
            truncated_share=_SHARES,
        ),
        max_size=12,
    )
)
def test_whatever_windows_look_like_the_memory_is_bounded_finite_and_canonical(signs: list[WindowSigns]) -> None:
    found, memory = follow(signs, AlarmSettings())
    assert len(memory) < 60
    assert all(math.isfinite(value) for value in memory.values())
    assert LEAST_FACTOR <= memory.get(LEARNING_RATE_FACTOR, 1.0) <= 1
    json.dumps([alarm.to_json() for alarms in found for alarm in alarms], allow_nan=False)


def test_every_alarm_has_an_action_and_every_action_an_alarm() -> None:
    actions = {field.name for field in dataclasses.fields(AlarmSettings) if field.name.startswith("on_")}
    assert actions == {f"on_{name}" for name in RULES}
    assert set(LASTING) <= RULES.keys()
    with pytest.raises(ConfigurationError):
        AlarmSettings(entropy_share=1.5)


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Of weights and moments, to the bit."""
    first, second = ({n: t for n, t in tensors.items() if not n.startswith("scalar.")} for tensors in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
