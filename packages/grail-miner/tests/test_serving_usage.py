"""What clients used: counted by UTC day, once each over kills and threads, read by whom it is about, shown to Prometheus."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from grail_core.errors import DamagedStateError
from grail_miner.serving.answering import Answering
from grail_miner.serving.clients import MAX_CLIENTS, Clients
from grail_miner.serving.metrics import Metrics
from grail_miner.serving.new_token import add_client
from grail_miner.serving.usage import KEEP_DAYS, Usage, UsageRow
from tooling.testing.clock import ManualClock
from tooling.testing.gated_models import GatedModels
from tooling.testing.serving_node import (
    MODEL,
    PATIENCE_S,
    RunningNode,
    answering_of,
    running_node,
    save_served_model,
    until,
)

DAY_MS = 86_400_000
MIDNIGHT = 1_769_904_000_000  # 2026-02-01T00:00:00Z
ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once", "max_tokens": 4}


def test_requests_are_counted_by_utc_day_and_client(tmp_path: Path) -> None:
    clock = ManualClock(MIDNIGHT - 1)
    usage = Usage(tmp_path / "usage.sqlite", clock=clock)
    usage.add("alice", prompt_tokens=3, completion_tokens=5)
    clock.now += 1
    usage.add("alice", prompt_tokens=2, completion_tokens=1)
    usage.add("alice", prompt_tokens=1, completion_tokens=0)
    usage.add("bob", prompt_tokens=7, completion_tokens=7)
    newest = UsageRow("2026-02-01", "alice", 2, 0, 3, 1)
    assert usage.rows("alice") == [newest, UsageRow("2026-01-31", "alice", 1, 0, 3, 5)]
    assert usage.rows("alice", days=1) == [newest]
    assert [row.client for row in usage.rows()] == ["alice", "bob", "alice"]


def test_days_are_kept_as_long_as_is_said(tmp_path: Path) -> None:
    clock = ManualClock(MIDNIGHT)
    usage = Usage(tmp_path / "usage.sqlite", clock=clock)
    usage.add("alice", prompt_tokens=1, completion_tokens=1)
    clock.now += (KEEP_DAYS - 1) * DAY_MS
    usage.add("bob", prompt_tokens=1, completion_tokens=1)
    assert len(usage.rows()) == 2
    clock.now += DAY_MS
    usage.add("bob", prompt_tokens=1, completion_tokens=1)
    assert usage.rows("alice", days=10_000) == []


def test_refusals_are_written_once_a_second_and_with_what_is_written_anyway(tmp_path: Path) -> None:
    clock = ManualClock(MIDNIGHT)
    usage = Usage(tmp_path / "usage.sqlite", clock=clock)
    for _ in range(100):
        usage.refuse("alice")
    usage.add("bob", prompt_tokens=1, completion_tokens=1)
    other = Usage(tmp_path / "usage.sqlite", clock=clock)
    assert [(row.client, row.refused) for row in other.rows()] == [("alice", 100), ("bob", 0)]
    usage.refuse("alice")
    usage.close()
    assert other.rows("alice")[0].refused == 101


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    usage = Usage(tmp_path / "usage.sqlite")
    with ThreadPoolExecutor(8) as pool:
        for _ in range(40):
            pool.submit(usage.add, "alice", prompt_tokens=1, completion_tokens=2)
            pool.submit(usage.refuse, "alice")
    rows = usage.rows("alice")
    assert (sum(row.requests for row in rows), sum(row.refused for row in rows)) == (40, 40)
    assert (sum(row.prompt_tokens for row in rows), sum(row.completion_tokens for row in rows)) == (40, 80)


COUNTING = """
import sys
import threading
from pathlib import Path
from grail_miner.serving.usage import Usage
usage = Usage(Path(sys.argv[1]))
while True:
    usage.add("alice", prompt_tokens=1, completion_tokens=2)
    print("counted", flush=True)
"""


def test_a_kill_loses_nothing_that_was_counted_and_doubles_nothing(tmp_path: Path) -> None:
    path, told = tmp_path / "usage.sqlite", 0
    for _ in range(2):
        command = [sys.executable, "-c", COUNTING, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(20):
                assert process.stdout.readline() == "counted\n"
            process.send_signal(signal.SIGKILL)
            told += 20 + len(process.stdout.read().splitlines())
    rows = Usage(path).rows("alice")
    requests = sum(row.requests for row in rows)
    assert told <= requests <= told + 2  # at each kill one may be on the disk that was not told any more
    assert sum(row.completion_tokens for row in rows) == 2 * requests


def test_the_file_is_for_this_user_alone_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite"
    former = os.umask(0)
    try:
        usage = Usage(path)
        usage.add("alice", prompt_tokens=1, completion_tokens=1)
    finally:
        os.umask(former)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    path.write_bytes(b"no database" * 100)
    with pytest.raises(DamagedStateError, match="usage"):
        Usage(path)


def samples_of(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Of a page as Prometheus reads it."""
    families = text_string_to_metric_families(page)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def test_labels_are_bounded_whatever_names_come() -> None:
    metrics = Metrics()
    about: dict[str, Any] = {"prompt_tokens": 1, "completion_tokens": 1, "seconds": 0.1}
    for number in range(2_000):
        metrics.finished(client=f"client-{number}", route=f"route-{number}", outcome=f"outcome-{number}", **about)
    for hostile in ('a"} 1\nevil{x="', "ü", "", "a" * 10_000, "a\\"):
        metrics.finished(client=hostile, route=hostile, outcome=hostile, **about)
        metrics.refused(client=hostile, route=hostile)
    samples = samples_of(metrics.page().decode())
    for label, most in (("client", MAX_CLIENTS + 1), ("route", 1), ("outcome", 2)):
        values = {value for _, labels in samples for name, value in labels if name == label}
        assert "other" in values
        assert len(values) <= most + (label == "client")
    assert not any("evil" in name for name, _ in samples)
    assert sum(value for (name, _), value in samples.items() if name == "grail_requests_total") == 2_010


def test_what_a_scheduler_tells_is_on_the_page() -> None:
    metrics, queue = Metrics(), [1, 2, 3]
    metrics.watch_queue(lambda: len(queue))
    metrics.watch_streams(lambda: 7)
    metrics.first_token(0.3)
    queue.pop()
    samples = samples_of(metrics.page().decode())
    assert samples["grail_queue_length", ()] == 2
    assert samples["grail_open_streams", ()] == 7
    assert samples["grail_first_token_seconds_bucket", (("le", "0.5"),)] == 1
    assert samples["grail_first_token_seconds_bucket", (("le", "0.25"),)] == 0


@pytest.fixture(scope="module")
def tokens() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Answering:
    return answering_of(save_served_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def node(answering: Answering, tmp_path_factory: pytest.TempPathFactory, tokens: dict[str, str]) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    path = folder / "clients.toml"
    for name in ("alice", "bob", "watcher"):
        tokens[name] = add_client(path, name)
        if name == "bob":
            path.write_text(path.read_text() + "tokens_per_minute = 6\n")
    path.write_text(path.read_text() + "metrics = true\n")
    with running_node(answering, folder / "state", clients=Clients(path)) as running:
        yield running


def test_a_client_reads_its_own_usage_and_the_operator_everybodys(node: RunningNode, tokens: dict[str, str]) -> None:
    bearer = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
    answer = node.post("/v1/completions", ASKED, **bearer["alice"])
    refused = node.post("/v1/completions", ASKED, **bearer["bob"])
    assert (answer.status_code, refused.status_code) == (200, 400)
    used = answer.json()["usage"]
    own = node.get("/v1/usage", **bearer["alice"]).json()["data"]
    assert [(row["client"], row["requests"], row["refused"]) for row in own] == [("alice", 1, 0)]
    assert (own[0]["prompt_tokens"], own[0]["completion_tokens"]) == (used["prompt_tokens"], used["completion_tokens"])
    assert node.get("/v1/usage?days=2").json()["data"] == [
        *own,
        {**own[0], "client": "bob", "requests": 0, "refused": 1, "prompt_tokens": 0, "completion_tokens": 0},
    ]
    for days in ("0", "401", "-1", "1.0", "", "1000000000000"):
        assert node.get(f"/v1/usage?days={days}").status_code == 400


def test_metrics_are_for_the_operator_and_who_may(node: RunningNode, tokens: dict[str, str]) -> None:
    node.post("/v1/completions", ASKED)
    assert node.get("/metrics", Authorization=f"Bearer {tokens['alice']}").status_code == 403
    allowed = node.get("/metrics", Authorization=f"Bearer {tokens['watcher']}", **{"X-Forwarded-For": "203.0.113.9"})
    assert allowed.headers["content-type"].startswith("text/plain; version=")
    samples = samples_of(node.get("/metrics").text)
    labels = (("client", "loopback"), ("outcome", "answered"), ("route", "completions"))
    assert samples["grail_requests_total", labels] >= 1
    assert samples["grail_tokens_total", (("client", "loopback"), ("kind", "prompt"))] >= 4
    assert samples["grail_request_seconds_count", (("route", "completions"),)] >= 1
    assert samples["grail_queue_length", ()] == 0
    assert samples_of(allowed.text).keys() <= samples.keys()


def test_who_goes_in_the_middle_has_used_what_was_drawn_and_who_still_waits_nothing(
    answering: Answering, tmp_path: Path
) -> None:
    models = GatedModels()
    path = tmp_path / "clients.toml"
    token = add_client(path, "alice")
    path.write_text(path.read_text() + "concurrent = 2\n")
    asked = {**ASKED, "max_tokens": 50}
    try:
        with running_node(answering, tmp_path / "state", models=models, max_rows=1, clients=Clients(path)) as node:
            bearer = {"Authorization": f"Bearer {token}"}
            usage = node.node.metering.usage
            with node.connection() as computed:
                computed.sendall(node.request_bytes("/v1/completions", asked, **bearer))
                for _ in range(3):
                    models.wait_for_burst()
                    models.open.release()
                models.wait_for_burst()  # three bursts are over: four tokens, two of them with the first
                with node.connection() as waiting:
                    waiting.sendall(node.request_bytes("/v1/completions", asked, **bearer))
                    until(lambda: node.node.scheduler.pending == 1)
                    refused = node.post("/v1/completions", ASKED, **bearer)
                    assert "(concurrent)" in refused.json()["error"]["message"]
                until(lambda: [(row.requests, row.prompt_tokens) for row in usage.rows("alice")] == [(1, 0)])
            until(lambda: usage.rows("alice")[0].requests == 2)
            row = usage.rows("alice")[0]
            assert (row.prompt_tokens, row.completion_tokens, row.refused) == (len(ASKED["prompt"]), 4, 1)
            gone = (("client", "alice"), ("outcome", "gone"), ("route", "completions"))
            assert samples_of(node.get("/metrics").text)["grail_requests_total", gone] == 2
            models.open.release(100_000)
    finally:
        models.open.release(100_000)


def test_requests_that_end_together_share_a_transaction_and_a_failed_one_loses_its_own_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = Usage(tmp_path / "usage.sqlite")
    begun, through = threading.Semaphore(0), threading.Event()
    write, sizes = Usage._write, []

    def slow(self: Usage, now: int, rows: Sequence[Any] = ()) -> None:
        sizes.append(len(list(rows)))
        begun.release()
        assert through.wait(PATIENCE_S)
        if len(sizes) == 2:
            raise OSError("the disk is full")
        write(self, now, rows)

    monkeypatch.setattr(Usage, "_write", slow)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(usage.add, "first", prompt_tokens=1, completion_tokens=0)
        assert begun.acquire(timeout=PATIENCE_S)
        others = [pool.submit(usage.add, f"other-{n}", prompt_tokens=1, completion_tokens=0) for n in range(8)]
        until(lambda: len(usage._waiting) == 8)
        through.set()
        first.result(PATIENCE_S)
        failed = [one for one in others if one.exception(PATIENCE_S) is not None]
    assert sizes == [1, 8, 7]
    assert len(failed) == 1
    monkeypatch.undo()
    assert sum(row.prompt_tokens for row in usage.rows()) == 8
