"""What is looked at after a validator died again and again: each thing that must not be is found, and what must be is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.keys import LocalSigner
from grail_core.protocol import Adopted, MinerWindow, SignedVerdict, VerdictBody, WindowStatus, score_inputs, weights
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Hotkey, Window
from tooling import REPOSITORY
from tooling.localnet.agreement import Agreement, compare
from tooling.localnet.doomed import drawn
from tooling.testing.bodies import accepted_body

ALIVE, DEAD = (LocalSigner.from_seed(bytes([number]) * 32).hotkey for number in (1, 2))
VALIDATORS = {"alive": ALIVE, "dead": DEAD}
MINERS = [Hotkey(bytes([number]) * 32) for number in (3, 4)]
WINDOWS = range(30, 180, 30)
MISSED = Window(90)


def published(*, missed: bool = False) -> dict[str, dict[Window, SignedVerdict]]:
    """Two validators' verdicts of five windows, all scored; `missed`: but for one that the second one did not see."""
    history: dict[Hotkey, list[MinerWindow]] = {}
    found: dict[str, dict[Window, SignedVerdict]] = {name: {} for name in VALIDATORS}
    for window in map(Window, WINDOWS):
        before = {hotkey: list(entries) for hotkey, entries in history.items()}
        body = accepted_body(window, MINERS)
        for miner in body.miners:
            history.setdefault(miner.hotkey, []).append(miner.miner_window(window))
        body = with_scores(body, history)
        for name, hotkey in VALIDATORS.items():
            own, adopted = body, None
            if missed and name == "dead" and window == MISSED:
                reason = "this validator was not there at first sight"
                own = with_scores(replace(body, status=WindowStatus.INCONCLUSIVE, miners=(), reason=reason), before)
            elif missed and name == "dead" and window == MISSED + 30:
                adopted = Adopted(ALIVE, MISSED, MISSED)
            found[name][window] = SignedVerdict(own, hotkey, b"", None, adopted)  # type: ignore[arg-type]
    return found


def with_scores(body: VerdictBody, history: Mapping[Hotkey, list[MinerWindow]]) -> VerdictBody:
    inputs = {uid: score_inputs(history.get(hotkey, ()), body.window) for uid, hotkey in body.hotkeys.items()}
    return replace(body, score_inputs=inputs, weights=weights(inputs, LOCALNET))


def compared(verdicts: Mapping[str, Mapping[Window, SignedVerdict]]) -> Agreement:
    return compare(verdicts, LOCALNET, VALIDATORS, WINDOWS)


def test_validators_that_agree_have_equal_windows_and_weights_that_follow() -> None:
    found = compared(published())
    assert found.problems == []
    assert found.equal == list(WINDOWS)
    assert found.weights_recomputed == 2 * len(WINDOWS)


def test_a_window_that_was_missed_stands_apart_is_named_and_was_filled_in() -> None:
    found = compared(published(missed=True))
    assert found.problems == []
    assert found.missed == {"dead": [MISSED]}
    assert found.filled_in == {"alive": [], "dead": [MISSED]}
    assert found.equal == [window for window in WINDOWS if window != MISSED]
    assert found.weights_recomputed == 2 * len(WINDOWS)


def other_weights(body: VerdictBody) -> VerdictBody:
    return replace(body, weights={uid: 65_535 if uid == 1 else 0 for uid in body.weights})


def harsher(body: VerdictBody) -> VerdictBody:
    miners = tuple(replace(miner, unique_valid=29) for miner in body.miners)
    return replace(body, miners=miners)


def void(body: VerdictBody) -> VerdictBody:
    return replace(body, status=WindowStatus.VOID, miners=(), reason="no round")


def judging(body: VerdictBody) -> VerdictBody:
    return replace(body, miners=accepted_body(body.window, MINERS).miners)


@pytest.mark.parametrize(
    ("change", "missed", "says"),
    [
        (other_weights, False, "do not follow from what was published"),
        (harsher, False, "scored it differently"),
        (void, False, "dead calls it void"),
        (judging, True, "judges 2 miners all the same"),
    ],
)
def test_what_must_not_be_is_found(change: Callable[[VerdictBody], VerdictBody], missed: bool, says: str) -> None:
    verdicts = published(missed=missed)
    changed = verdicts["dead"][MISSED]
    verdicts["dead"][MISSED] = replace(changed, body=change(changed.body))
    assert any(says in problem for problem in compared(verdicts).problems)


def test_a_verdict_that_is_not_there_and_a_window_that_was_filled_in_in_silence_are_found() -> None:
    verdicts = published(missed=True)
    del verdicts["alive"][Window(30)]
    silent = verdicts["dead"][Window(MISSED + 30)]
    verdicts["dead"][Window(MISSED + 30)] = replace(silent, adopted=None)
    problems = compared(verdicts).problems
    assert "window 30: no verdict of alive" in problems
    assert f"window {MISSED}: missed by dead, and filled in from nobody" in problems
    assert any("the weights of dead do not follow" in problem for problem in problems)


def test_the_seed_draws_every_other_window_and_one_absence_in_four_deaths() -> None:
    windows = [Window(30 * index) for index in range(1, 401)]
    draws = [drawn(81, window) for window in windows]
    assert draws == [drawn(81, window) for window in windows] != [drawn(82, window) for window in windows]
    assert [draw is not None for draw in draws] == [window // 30 % 2 == 1 for window in windows]
    made = [draw for draw in draws if draw is not None]
    assert sum(away for _, away in made) == len(made) // 4
    tenths = [int(10 * share) for share, _ in made]
    assert set(tenths) == set(range(9))  # early and late in a window


@pytest.mark.heavy
@pytest.mark.timeout(1800)  # about two minutes on two idle processors
def test_a_validator_that_dies_every_other_window_agrees_with_one_that_lives(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}
    command = [sys.executable, "-m", "tooling.localnet.crashes", "--windows", "6", "--json", "--out", str(tmp_path / "run")]
    with (tmp_path / "stderr").open("wb") as stderr:
        ended = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True)
    summary: dict[str, Any] = json.loads(ended.stdout)
    assert (ended.returncode, summary["problems"]) == (0, []), (tmp_path / "stderr").read_text()
    assert len(summary["deaths"]) == 3
    missed = summary["missed"]["validator-2"]
    assert len(missed) == 1
    assert summary["filled_in"] == {"validator-1": [], "validator-2": missed}
    assert summary["equal"] == 5
    assert summary["weights_recomputed"] >= 12
