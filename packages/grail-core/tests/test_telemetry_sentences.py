"""The terminal says in a sentence what the log file has in full; a role says at its end what it did."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from grail_core.telemetry import configure, get_logger, run_summary
from grail_core.telemetry.run_summary import LOST, RunSummary, said_at_the_end
from grail_core.telemetry.sentences import _SENTENCES, duration, sentence, with_fields

log = get_logger("grail_core.tests")

MINED: dict[str, Any] = {
    "window": 60,
    "groups": 8,
    "rollouts": 128,
    "tokens": 1221,
    "reward_mean": 0.4399,
    "seconds_generate": 0.3262,
    "seconds_prove": 12.28,
    "bytes": 11586,
    "seconds_to_spare": 245.0,
}


def test_an_event_is_a_sentence_on_the_terminal_and_whole_in_the_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("miner", log_file=tmp_path / "log.jsonl")
    log.event("window_mined", **MINED)
    shown = capsys.readouterr().err
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d window_mined window 60: 128 rollouts in 8 groups, mean reward 0\.440; 326 ms generating, "
        r"12\.3 s proving, 11\.6 kB up 4 min 5 s before the deadline\n",
        shown,
    ), shown
    written = json.loads((tmp_path / "log.jsonl").read_text())
    assert written.items() >= MINED.items()
    configure("miner", log_format="fields")
    log.event("window_mined", **MINED)
    assert "window=60 groups=8 rollouts=128 tokens=1221 reward_mean=0.4399 seconds_generate=0.3262s" in capsys.readouterr().err
    configure("miner", log_format="json")
    log.event("window_mined", **MINED)
    assert json.loads(capsys.readouterr().err)["event"] == "window_mined"


def test_a_field_that_is_missing_or_odd_costs_the_sentence_and_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("miner")
    for fields in ({"window": 60}, MINED | {"reward_mean": None}, MINED | {"bytes": "many"}):
        assert sentence("window_mined", fields) == ""
        log.event("window_mined", **fields)
        assert "window_mined window=60" in capsys.readouterr().err


def test_what_others_wrote_acts_on_no_terminal_in_a_sentence_either(capsys: pytest.CaptureFixture[str]) -> None:
    configure("miner")
    log.event("window_skipped", window=30, reason="no\x1b[2J file\nwindow_mined window 60")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "\x1b" not in shown
    assert "window 30: skipped: no" in shown


def test_fields_have_their_units_and_empty_ones_are_left_out() -> None:
    told = with_fields(
        {"seconds_verify": 4.37, "age_seconds": 3, "delta_bytes": 89879, "ms": 12, "groups": 8, "late": False, "why": ""}
    )
    assert told == "seconds_verify=4.37s age_seconds=3s delta_bytes=89879B ms=12ms groups=8 late=False"
    assert [duration(s) for s in (0.85, 12.34, 245, 11_220, 187_000)] == [
        "850 ms",
        "12.3 s",
        "4 min 5 s",
        "3 h 7 min",
        "2 d 3 h",
    ]


def test_every_sentence_is_of_an_event_that_some_role_records() -> None:
    sources = Path(__file__).parents[2].glob("*/src/**/*.py")
    names = {name for path in sources for name in re.findall(r'"([a-z_]+)"', path.read_text("utf-8")) if name in _SENTENCES}
    assert names == set(_SENTENCES)
    recorded = {event for table in (run_summary.MINER, run_summary.VALIDATOR, run_summary.TRAINER) for event in table}
    everything = "".join(path.read_text("utf-8") for path in Path(__file__).parents[2].glob("*/src/**/*.py"))
    assert all(re.search(rf'event\(\s*"{event}"', everything) or f'"{event}"' in everything for event in recorded)


def test_a_role_that_stops_says_what_it_did_and_why_the_last_window_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    configure("miner")
    with said_at_the_end(log, "miner_stopped", run_summary.MINER) as summary:
        log.event("window_mined", **MINED)
        log.event("window_mined", **MINED)
        log.event("window_skipped", window=90, reason="the beacon was late")
        log.event("something_else", rollouts=7)
        summary.windows = 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        r"miner_stopped stopped after .*: 2 windows mined, 1 window lost, 256 rollouts, 23\.2 kB uploaded; the last one lost "
        r"because the beacon was late$",
        told,
    ), told
    assert not any(isinstance(handler, RunSummary) for handler in logging.getLogger().handlers)


def test_a_summary_comes_also_where_an_error_ends_the_role(tmp_path: Path) -> None:
    configure("validator", log_file=tmp_path / "log.jsonl")

    def role() -> None:
        with said_at_the_end(log, "validator_stopped", run_summary.VALIDATOR):
            log.event("window_judged", window=30, checked=3, failed=1, rollouts_checked=114)
            log.event("window_not_scored", window=60, status="void", reason="no beacon")
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        role()
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "validator_stopped"
    assert (last["windows"], last["files_checked"], last["files_failed"], last[LOST]) == (1, 3, 1, 1)
    assert last["last_reason"] == "no beacon"
