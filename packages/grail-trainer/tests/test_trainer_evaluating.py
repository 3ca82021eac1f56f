"""Promises of the evaluations beside the learning: whose turn it is, and that a result is kept whole and once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError, DamagedStateError
from grail_trainer.evaluating.child import child_environment
from grail_trainer.evaluating.record import EvaluationFile, EvaluationRecord
from grail_trainer.evaluating.schedule import Ended, Out, Schedule, Turn, step
from grail_trainer.evaluation_settings import EvaluationSettings

RECORDS = [
    EvaluationRecord(f"{number:064x}", number, 30 * number, 30 * number + 60, 1.5, {"success": 0.5}) for number in (0, 4)
]


def turns(schedule: Schedule, *events: Out | Ended) -> list[Turn]:
    found = []
    for event in events:
        schedule, turn = step(schedule, event)
        found.append(turn)
    return found


def test_the_first_checkpoint_seen_has_its_turn_and_then_every_nth() -> None:
    events = [event for number in range(9) for event in (Out(number), Ended())]
    found = turns(Schedule(4), *events)[::2]
    assert [number for number, turn in enumerate(found) if turn is Turn.START] == [0, 4, 8]


def test_a_number_that_is_passed_over_gives_its_turn_to_the_next() -> None:
    """Two windows may share a checkpoint of another's; checkpoints that were published before a start are not seen here."""
    assert turns(Schedule(4, considered=2), Out(3), Out(5)) == [Turn.NONE, Turn.START]


def test_an_evaluation_that_is_still_running_is_not_started_twice_and_its_turn_is_not_made_up_for() -> None:
    assert turns(Schedule(2), Out(0), Out(1), Out(2), Ended(), Out(3), Out(4)) == [
        Turn.START,
        Turn.NONE,
        Turn.PASSED,
        Turn.NONE,
        Turn.NONE,
        Turn.START,
    ]


def test_a_start_evaluates_the_newest_checkpoint_where_its_turn_came_and_no_result_did() -> None:
    assert turns(Schedule(4, considered=4), Out(4)) == [Turn.NONE]
    assert turns(Schedule(4, considered=4), Out(7)) == [Turn.NONE]
    assert turns(Schedule(4, considered=0), Out(7)) == [Turn.START]
    assert turns(Schedule(0), Out(0)) == [Turn.NONE]


def test_every_cut_of_the_file_is_gone_on_with_and_ends_with_the_same_lines(tmp_path: Path) -> None:
    path = tmp_path / "state" / "evaluations.jsonl"
    file = EvaluationFile(path)
    assert file.newest is None
    assert [file.add(record) for record in RECORDS] == [True, True]
    whole = path.read_bytes()
    assert [json.loads(line) for line in whole.splitlines()] == [record.to_json() for record in RECORDS]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        again = EvaluationFile(path)
        for record in RECORDS:
            again.add(record)
        assert path.read_bytes() == whole, length
    assert EvaluationFile(path).newest == 4
    assert not EvaluationFile(path).add(RECORDS[0])


def test_a_line_that_is_none_of_ours_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    for line in ("nothing", "[]", '{"checkpoint": "ab"}'):
        path.write_text(json.dumps(RECORDS[0].to_json()) + f"\n{line}\n")
        with pytest.raises(DamagedStateError) as error:
            EvaluationFile(path)
        assert error.value.where == f"{path}, line 2"


def test_a_child_has_the_settings_and_neither_the_wallets_password_nor_a_rank() -> None:
    own = {"GRAIL_NETWORK": "n", "GRAIL_DEVICE": "cuda", "BT_PW_X": "secret", "RANK": "0", "TORCHELASTIC_RUN_ID": "1"}
    found = child_environment(own, "cpu")
    assert found == {"GRAIL_NETWORK": "n", "GRAIL_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cpu:0", ""])
def test_a_device_that_is_none_is_refused_before_anything_starts(device: str) -> None:
    with pytest.raises(ConfigurationError, match="evaluate_device"):
        EvaluationSettings(evaluate_device=device)
