"""W&B in a process of its own: an offline run can be read back, and no server, fault or end of it is in a role's way."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.telemetry import get_logger
from grail_core.telemetry.logs import fields_of
from grail_core.telemetry.metrics import wandb as sink_module
from grail_core.telemetry.metrics.metric import From, Label, Metric
from grail_core.telemetry.metrics.monitoring import Monitoring, monitored
from grail_core.telemetry.metrics.wandb import QUEUE, WandbRun, WandbSink

pytest.importorskip("wandb")

KEY = "0123456789abcdef0123456789abcdef01234567"
STAGE = Label("stage", ("prove",))
TABLE = (
    Metric("grail_test_windows_total", "counter", "windows", follows=(From("judged"),)),
    Metric("grail_test_reward", "gauge", "mean reward", follows=(From("judged", "reward"),)),
    Metric(
        "grail_test_stage_seconds",
        "gauge",
        "by stage",
        labels=(STAGE,),
        follows=(From("judged", "s", fixed={"stage": "prove"}),),
    ),
)
log = get_logger("grail_core.test_wandb")


def monitoring(folder: Path, mode: str = "offline", key: str = "") -> Monitoring:
    run = WandbRun("miner", "grail", "", mode, folder, key=key, config={"role": "miner", "network": "small"})
    return Monitoring(("wandb",), "127.0.0.1", 0, run)


def told(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    return [dict(fields_of(record) or {}) for record in caplog.records if record.getMessage() == name]


def until(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    """Once it has been said; a test's own time limit ends a wait that is in vain."""
    while not (found := told(caplog, name)):
        time.sleep(0.05)
    return found


def session_of(pid: int) -> list[int]:
    """Processes of this session that run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, session = entry.joinpath("stat").read_text().rpartition(") ")[2].split()[0:4:3]
            found += [int(entry.name)] if int(session) == pid and state not in "ZX" else []
    return found


def children_of(pid: int) -> list[Path]:
    """Folders in /proc of the processes that this one started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            found += [entry] if int(entry.joinpath("stat").read_text().rpartition(") ")[2].split()[1]) == pid else []
    return found


def history(path: Path) -> list[dict[str, object]]:
    """Points of a run's file: records as LevelDB logs them, in blocks of 32 KiB behind a head of 7 bytes."""
    wandb_internal_pb2: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")

    data, place, record, rows = path.read_bytes(), 7, b"", []
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        if 32_768 - place % 32_768 < 7:
            place += 32_768 - place % 32_768
        _, size, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind not in (1, 4):  # whole, or the last part of one
            continue
        said = wandb_internal_pb2.Record()
        said.ParseFromString(record)
        record = b""
        if said.WhichOneof("record_type") == "history":
            items = said.history.item
            rows.append({(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items})
    return rows


def run_of(wanted: Monitoring) -> WandbRun:
    assert wanted.wandb is not None
    return wanted.wandb


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_an_offline_run_can_be_read_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), monitored(monitoring(tmp_path), TABLE):
        for window in range(3):
            log.event("judged", reward=window / 2, s=1.5)
        until(caplog, "monitoring_began")
    assert told(caplog, "monitoring_left") == []
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows, everything = history(path), path.read_bytes()
    assert [row["grail_test_windows_total"] for row in rows] == [1, 2, 3]
    assert [row["grail_test_reward"] for row in rows] == [0, 0.5, 1]
    assert {row["grail_test_stage_seconds/prove"] for row in rows} == {1.5}
    for private in (socket.gethostname(), str(Path(sys.argv[0]).name), os.environ.get("USER", "nobody-here")):
        assert len(private) < 5 or private.encode() not in everything, private


def test_a_server_that_never_answers_holds_up_nothing(
    deaf: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "CLOSE_S", 1.0)
    with caplog.at_level(logging.INFO):
        sink = WandbSink(run_of(monitoring(tmp_path, "online", KEY)))
        about = Path(f"/proc/{sink.pid}")
        assert KEY.encode() not in about.joinpath("cmdline").read_bytes()
        assert KEY.encode() not in about.joinpath("environ").read_bytes()
        held, _ = deaf.accept()  # it has connected: what comes now is its waiting
        for _ in range(QUEUE * 2):
            sink.take([])
        sink.close()
        held.close()
    assert session_of(sink.pid) == []
    assert told(caplog, "monitoring_left") == [{"backend": "wandb", "reason": "it did not end within 1 s"}]
    assert KEY not in caplog.text


def test_the_key_is_in_nothing_that_wandb_starts_or_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        sink = WandbSink(run_of(monitoring(tmp_path, "offline", KEY)))
        until(caplog, "monitoring_began")
        started = children_of(sink.pid)
        shown = b"".join(one.joinpath(name).read_bytes() for one in started for name in ("cmdline", "environ"))
        sink.close()
    assert started, "wandb has a process of its own"
    assert KEY.encode() not in shown
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize("begun", [False, True])
def test_a_process_that_is_killed_is_told_and_the_role_goes_on(
    begun: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        sink = WandbSink(run_of(monitoring(tmp_path)))
        if begun:
            until(caplog, "monitoring_began")
        os.kill(sink.pid, signal.SIGKILL)
        assert until(caplog, "monitoring_unavailable") == [{"backend": "wandb", "reason": "its process ended"}]
        for _ in range(QUEUE * 3):
            sink.take([])
        sink.close()
    assert session_of(sink.pid) == []
    assert sink.dropped > 0
    assert told(caplog, "monitoring_dropped") == [{"backend": "wandb", "points": sink.dropped}]


def test_a_key_that_wandb_refuses_is_told_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        sink = WandbSink(run_of(monitoring(tmp_path, "online", "short-and-secret")))
        (said,) = until(caplog, "monitoring_unavailable")
        sink.close()
    assert "short-and-secret" not in caplog.text + json.dumps(said)
    assert said["reason"]


def test_without_wandb_a_role_is_warned_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    ran = []
    with caplog.at_level(logging.INFO), monitored(monitoring(tmp_path), TABLE):
        ran.append(1)
    (said,) = told(caplog, "monitoring_unavailable")
    assert ran == [1]
    assert "grail-core[wandb]" in str(said)


def test_no_setting_of_a_role_goes_into_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("R2_WRITE_SECRET_ACCESS_KEY", "GRAIL_NETWORK", "BT_WALLET_HOT", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
        assert not sink_module._goes_along(name)
    assert sink_module._goes_along("WANDB_BASE_URL")
