"""Logs are one JSON object a line for machines, one short line for people, and hold no secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError
from grail_core.telemetry import configure, get_logger

log = get_logger("grail_core.something")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def test_a_log_file_that_cannot_be_written_is_a_setting_to_check(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure("miner", log_file=tmp_path)
    assert (caught.value.where, "GRAIL_LOG_FILE" in caught.value.hint) == (str(tmp_path), True)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_json_object_with_its_fields(tmp_path: Path) -> None:
    configure("miner", log_file=tmp_path / "new" / "log.jsonl")
    log.event("window_mined", window=60, groups=12, share=0.5, reason="a\nb")
    (line,) = lines(tmp_path / "new" / "log.jsonl")
    assert {key: line[key] for key in ("role", "level", "event", "window", "groups", "share", "reason")} == {
        "role": "miner",
        "level": "info",
        "event": "window_mined",
        "window": 60,
        "groups": 12,
        "share": 0.5,
        "reason": "a\nb",
    }


def test_the_terminal_gets_a_short_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    configure("miner")
    log.event("window_mined", window=60, detail="two words", nothing=None)
    log.event("window_lost", level=logging.WARNING, window=90)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(' window_mined window=60 detail="two words"')
    assert second.endswith(" warning: window_lost window=90")
    assert "\033" not in first + second


def test_what_is_named_like_a_secret_is_masked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure("miner", log_file=tmp_path / "log")
    log.event("opened", write_secret="abc123", Password="abc123", mnemonic="abc123", wandb_api_key="abc123", key="shown")
    assert "abc123" not in (tmp_path / "log").read_text() + capsys.readouterr().err
    assert lines(tmp_path / "log")[0]["key"] == "shown"


def test_verbosity_decides_what_is_heard(tmp_path: Path) -> None:
    def heard(verbosity: int) -> set[str]:
        path = tmp_path / str(verbosity)
        configure("miner", verbosity=verbosity, log_file=path)
        log.debug("ours")
        logging.getLogger("somebody").debug("theirs")
        logging.getLogger("somebody").warning("warned")
        return {str(line["text"]) for line in lines(path)}

    assert heard(0) == {"warned"}
    assert heard(1) == {"ours", "warned"}
    assert heard(2) == {"ours", "theirs", "warned"}


def test_an_exception_is_recorded_with_its_trace(tmp_path: Path) -> None:
    configure("miner", log_file=tmp_path / "log")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    assert "ValueError: broken" in str(lines(tmp_path / "log")[0]["exception"])


STRANGE = "\x1b[2J\u202e\u2066\u200b\ud800\x9b31m [/x]"


def test_strangers_words_are_whole_in_the_file_and_act_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure("miner", log_file=tmp_path / "log")
    log.event("refused", reason=STRANGE, items=[STRANGE], long="x" * 10**6)
    log.warning("somebody said %s", STRANGE)
    try:
        raise ValueError(STRANGE)
    except ValueError:
        log.exception("failed")
    raw = (tmp_path / "log").read_text()
    assert raw.isascii()
    assert raw.replace("\n", "").isprintable()
    told = lines(tmp_path / "log")
    assert (told[0]["reason"], told[0]["items"]) == (STRANGE, [STRANGE])
    assert len(str(told[0]["long"])) < 30_000
    shown = capsys.readouterr().err
    assert shown.replace("\n", "").replace("…", "").isascii()
    assert shown.replace("\n", "").isprintable()
    assert "\\x1b[2J\\u202e" in shown


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=50), st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), st.lists, max_leaves=5)
)
def test_whatever_is_logged_stays_one_line_of_json(tmp_path: Path, text: str, value: Any) -> None:
    path = tmp_path / "log"
    path.unlink(missing_ok=True)
    configure("miner", log_file=path)
    log.event("seen", text=text.encode("utf-8", "replace").decode(), value=value)
    with path.open(newline="\n", encoding="utf-8") as file:
        (line,) = file.read().split("\n")[:-1]
    assert json.loads(line)["value"] == value
