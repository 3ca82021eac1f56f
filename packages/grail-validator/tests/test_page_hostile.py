"""Whoever asks the page strangely, and whatever becomes of its source: it refuses, it says what is missing, and goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from grail_core.errors import ConfigurationError, StorageError
from grail_core.keys import ss58
from grail_core.participant.settings import load_settings
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.served_http import TimedConnection
from grail_core.storage.layout import verdict_key
from grail_validator.cli import cli
from grail_validator.page.board import MEMORY, OLDER, Board
from grail_validator.page.command import PUBLIC, ServeRequest, serve_command
from grail_validator.page.edge import MAX_ADDRESS, is_local
from grail_validator.page.layout import PER_PAGE
from grail_validator.page.sources import LedgerSource, Pieces
from tooling.testing.published_verdicts import PlayedNetwork, new_ledger, publish, put, record
from tooling.testing.served_page import folder_source, listening, page_of

PLAYED = PlayedNetwork(miners=2)
VERDICTS = list(PLAYED.play(100))


@dataclass
class CountedSource:
    """What is published of so many windows, most of it made up where nobody looks, and how often it is read."""

    listing: dict[Window, str]
    owner: tuple[Hotkey, Digest] | None = None
    what: str = "a made-up source"
    reads: list[Window] = field(default_factory=list)
    fault: StorageError | None = None

    def listed(self) -> Mapping[Window, str]:
        if self.fault is not None:
            raise self.fault
        return self.listing

    def verdict(self, window: Window) -> bytes:
        self.reads.append(window)
        if self.fault is not None:
            raise self.fault
        return VERDICTS[window // 30].encode()

    def evidence(self, window: Window) -> Pieces | None:
        return None


@dataclass
class MutantSource:
    """Another's, with these bytes in place of the second verdict."""

    source: CountedSource
    raw: bytes
    owner: tuple[Hotkey, Digest] | None = None
    what: str = "a made-up source"

    def listed(self) -> Mapping[Window, str]:
        return self.source.listed()

    def verdict(self, window: Window) -> bytes:
        return self.raw if window == 30 else self.source.verdict(window)

    def evidence(self, window: Window) -> Pieces | None:
        return None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("verdicts")
    for verdict in VERDICTS[:3]:
        publish(folder, verdict)
    page = page_of(folder_source(folder), now_ms=partial(int, 1_800_000_000_000))
    with listening(page) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    [
        "/windows/31",
        "/windows/-30",
        "/windows/030",
        "/windows/99999999999999990",
        "/windows/3e1",
        "/windows/900000",
        "/windows/0/nobody",
        "/windows/0/5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM",
        "/miners/5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM",
        "/miners/%3Cscript%3E",
        "/windows/..%2f..%2fetc%2fpasswd",
        "/windows/0/evidence.parquet/",
        "/%00",
        "/windows/",
        "/style.css",
    ],
)
def test_a_path_that_is_none_is_a_page_that_says_so(site: httpx.Client, path: str) -> None:
    answer = site.get(path)
    assert answer.status_code == 404
    assert "<h1>Not here</h1>" in answer.text
    assert "<script" not in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/windows", "/windows/0", "/proof", "/checkpoints", "/metrics", "/windows/0/verdict.json"]
)
def test_every_answer_forbids_what_no_page_needs_and_head_is_the_same_without_a_body(site: httpx.Client, path: str) -> None:
    answer, head = site.get(path), site.head(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert (head.status_code, head.content) == (answer.status_code, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]
    assert site.head("/windows/0/evidence.parquet").headers["content-length"] == "17000"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_is_taken_but_get_and_head(site: httpx.Client, method: str) -> None:
    answer = site.request(method, "/")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert "content-security-policy" in answer.headers


def test_a_long_address_is_refused_and_a_query_of_nonsense_changes_nothing(site: httpx.Client) -> None:
    assert site.get("/?q=" + "x" * MAX_ADDRESS).status_code == 414
    plain = site.get("/windows").text
    for query in ("page=-1", "page=9999999999", "page=%F0%9F%92%A9", "sort=%00", "q[]=1&q=", "page=1&page=2", "&&&=="):
        assert site.get(f"/windows?{query}").text == plain
    assert "0 hotkeys that match" in site.get("/", params={"q": "%" * 60}).text


def test_on_loopback_a_page_of_elsewhere_cannot_ask_under_its_own_name(site: httpx.Client) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost:x", "[::1]x"):
        assert not is_local(host)
        assert site.get("/", headers={"host": host}).status_code == 421 or not host
    for host in ("localhost", "LOCALHOST:9464", "127.0.0.1:1", "[::1]:9464"):
        assert site.get("/", headers={"host": host}).status_code == 200


def test_an_unchanged_page_is_not_sent_again(site: httpx.Client) -> None:
    first = site.get("/")
    again = site.get("/", headers={"if-none-match": f'"x", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" in again.headers


def test_a_client_that_never_ends_its_head_or_takes_no_answer_is_cut_and_others_are_answered() -> None:
    class Quick(TimedConnection):
        look_seconds = 0.05

    source = CountedSource({one.body.window: "" for one in VERDICTS[:2]})
    with listening(page_of(source), http=Quick) as url:
        slow = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        assert httpx.get(url).status_code == 200
        assert slow.recv(1) == b""  # it is closed, by whoever waits no longer
        slow.close()


def test_of_ten_thousand_windows_the_memory_alone_is_read_and_once() -> None:
    last = VERDICTS[-1].body.window
    listing = {Window(last - 30 * at): "" for at in range(len(VERDICTS))}
    listing |= {Window(last + 30 * at): "" for at in range(-10_000, 0) if last + 30 * at >= 0}
    source = CountedSource(listing)
    page = page_of(source)
    assert sorted(source.reads) == sorted(listing)[-MEMORY:]
    with listening(page) as url:
        for path in ("/", "/proof", "/metrics", "/checkpoints", f"/miners/{ss58(PLAYED.hotkey(1))}"):
            assert httpx.get(url + path).status_code == 200
        page.board.refresh()
        assert len(source.reads) == MEMORY
        assert httpx.get(f"{url}/windows?page=1").text.count('href="/windows/') >= 28 + 4
        assert len(source.reads) == len(VERDICTS)  # 8 of the second page are of the memory
        assert len(source.reads) - MEMORY <= PER_PAGE <= OLDER


def test_a_source_that_goes_away_leaves_what_was_read_and_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "verdicts"
    for verdict in VERDICTS[:3]:
        publish(folder, verdict)
    page = page_of(folder_source(folder))
    with listening(page) as url, httpx.Client(base_url=url) as client:
        shutil.rmtree(folder)
        page.board.refresh()
        after = client.get("/")
        assert "The source cannot be read: nothing is listed there any more" in after.text
        assert f"/miners/{ss58(PLAYED.hotkey(1))}" in after.text
        assert "cannot be read" in client.get("/healthz").json()["reason"]
        assert "grail_validator_page_source_up 0\n" in client.get("/metrics").text


def test_a_store_that_does_not_answer_costs_what_it_would_have_said() -> None:
    source = CountedSource({one.body.window: "" for one in VERDICTS[:4]})
    page = page_of(source)
    source.fault = StorageError("the store does not answer", where="somewhere")
    with listening(page) as url, httpx.Client(base_url=url) as client:
        assert page.board.refresh().problem == "the store does not answer"
        assert page.board.where == "somewhere"
        shown = client.get("/").text
        assert "The source cannot be read: the store does not answer" in shown
        assert ss58(PLAYED.hotkey(1)) in shown
        down = client.get(f"/windows/90/{ss58(PLAYED.hotkey(1))}")
        assert down.status_code == 503
        assert "retry-after" in down.headers
        assert client.get("/healthz").json()["reason"].startswith("the source cannot be read")
        assert "grail_validator_page_source_up 0\n" in client.get("/metrics").text
        source.fault = None
        assert page.board.refresh().problem == ""
        assert client.get(f"/windows/90/{ss58(PLAYED.hotkey(1))}").status_code == 200


def test_what_could_not_be_read_in_time_is_named_and_read_with_the_next_look() -> None:
    source = CountedSource({one.body.window: "" for one in VERDICTS[:4]})
    board = Board(source)
    assert [one.problem for one in board.refresh(seconds=-1).unread] == ["not read yet"] * 4
    assert board.refresh().unread == ()


def test_a_verdict_that_is_replaced_is_read_again() -> None:
    source = CountedSource({Window(0): "a"})
    board = Board(source)
    first = board.refresh().number
    assert board.refresh().number == first
    source.listing = {Window(0): "b"}
    board.refresh()
    assert source.reads == [0, 0]


def test_a_ledger_of_another_version_or_none_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no ledger")
    with pytest.raises(ConfigurationError, match="no ledger"):
        LedgerSource(path)
    path.unlink()
    new_ledger(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
    with pytest.raises(ConfigurationError, match="of a later version") as refused:
        LedgerSource(path)
    assert "install the version that wrote it" in refused.value.hint


@pytest.mark.parametrize("version", [3, 4])
def test_a_ledger_of_an_earlier_version_is_shown_as_it_is(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ledger.sqlite"
    record(new_ledger(path), VERDICTS[0])
    with closing(sqlite3.connect(path)) as db, db:
        gone = ["rounds", "round_sightings", "round_measured", "round_adopted", "ratings", "feedback", "round_failures"]
        for name in [*gone, *(["measured", "sums"] if version == 3 else [])]:
            db.execute(f"DROP TABLE {name}")
        db.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(version),))
    before = path.read_bytes()
    with listening(page_of(LedgerSource(path))) as url:
        assert f"/miners/{ss58(PLAYED.hotkey(1))}" in httpx.get(url).text
        assert httpx.get(f"{url}/windows/0").status_code == 200
    assert path.read_bytes() == before


def test_whatever_bytes_lie_in_place_of_a_verdict_cost_their_window_alone() -> None:
    raw, chance = VERDICTS[1].encode(), random.Random(81)
    source = CountedSource({Window(0): "", Window(30): ""})
    for mutant in range(300):
        changed = bytearray(raw)
        for _ in range(chance.choice((1, 1, 2, 40))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        cut = bytes(changed[: chance.randrange(len(changed))]) if mutant % 5 == 0 else bytes(changed)
        board = Board(MutantSource(source, cut))
        snapshot = board.refresh()
        assert [one.window for one in snapshot.records] == [0]
        assert [one.window for one in snapshot.unread] == [30] or cut == raw


def test_a_ledger_that_vanishes_or_is_damaged_while_it_is_shown_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    record(new_ledger(path), VERDICTS[0])
    page = page_of(LedgerSource(path))
    for made in (lambda: path.unlink(), lambda: path.write_bytes(b"\0" * 8192)):
        made()
        assert page.board.refresh().problem
        with listening(page) as url:
            assert httpx.get(url).status_code == 200
            assert httpx.get(f"{url}/healthz").status_code == 503


def test_too_large_a_verdict_is_not_read(tmp_path: Path) -> None:
    publish(tmp_path, VERDICTS[0])
    huge = tmp_path / verdict_key(Window(30))
    put(tmp_path, verdict_key(Window(30)), b"")
    os.truncate(huge, 33 << 20)
    (unread,) = page_of(folder_source(tmp_path)).board.snapshot.unread
    assert unread.problem.startswith("not a verdict: 34603008 bytes")


def test_the_command_says_in_one_line_where_it_listens_and_ends_when_it_is_told(tmp_path: Path) -> None:
    publish(tmp_path / "verdicts", VERDICTS[0])
    command = [
        sys.executable,
        "-c",
        "from grail_validator.cli import main; main()",
        "serve",
        "--from",
        "verdicts",
        "--port",
        "0",
    ]
    environment = {**os.environ, "GRAIL_NETWORK": "localnet", "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*command, "--json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["windows"] == 1
        assert httpx.get(f"{told['url']}windows/0").status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest


def test_the_command_refuses_what_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    for arguments, said in (
        (["--from", "nowhere"], "there is no such bucket"),
        (["--from", str(tmp_path), "--validator", "nobody"], "SS58"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            run(cli, ["serve", *arguments], catch_exceptions=False)
    assert run(cli, ["serve", "--validator", "5F"]).exit_code == 2
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="cannot be listened on"):
            run(cli, ["serve", "--from", str(tmp_path), "--port", port], catch_exceptions=False)


def test_beyond_loopback_any_name_is_answered_and_the_operator_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = page_of(CountedSource({}), loopback=False)
    with listening(page) as url:
        assert httpx.get(url, headers={"host": "page.example"}).status_code == 200
    stop = threading.Event()
    stop.set()
    for host, told in (("0.0.0.0", f"note: {PUBLIC}"), ("127.0.0.1", "")):
        serve_command(load_settings(network="localnet"), ServeRequest(host, 0, str(tmp_path), None, None), stop, as_json=False)
        said = capsys.readouterr()
        assert said.out.startswith(f"http://{host}:")
        assert told in said.err
        assert (PUBLIC in said.err) == bool(told)
