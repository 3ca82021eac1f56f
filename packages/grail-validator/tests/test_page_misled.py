"""What would have the page say something untrue, name what nobody should read, or hold up whoever else asks."""

from __future__ import annotations

import html
import json
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from grail_core.errors import ConfigurationError
from grail_core.keys import LocalSigner, ss58
from grail_core.participant.settings import load_settings
from grail_core.protocol import MinerStatus, MinerVerdict, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.gradient.judging import MinerFacts, judge_round
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.records import ZERO_ROOT
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.scores import score_inputs
from grail_core.protocol.signed_verdicts import Adopted
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.served_http import TimedConnection
from grail_core.storage.layout import verdict_key
from grail_core.verification.wording import reject
from grail_validator.cli import cli
from grail_validator.page import app
from grail_validator.page.board import MEMORY, OLDER, Board
from grail_validator.page.command import PUBLIC, ServeRequest, serve_command
from grail_validator.page.layout import PER_PAGE
from grail_validator.page.serving import bind, serving
from grail_validator.page.sources import PIECE, LedgerSource, Pieces
from tooling.testing.gradient_rules import ROUND, digest, hotkey_of, round_facts, unsigned_seal
from tooling.testing.published_verdicts import NETWORK, VALIDATOR, PlayedNetwork, new_ledger, publish, put, record, signed
from tooling.testing.served_page import folder_source, listening, page_of

PLAYED = PlayedNetwork(miners=3, fails={30: [1]})
VERDICTS = list(PLAYED.play(6))
FAILED = ss58(PLAYED.hotkey(1))
LATE_MS = 4_000_000_000_000


def text_of(answer: httpx.Response) -> str:
    bare = re.sub(r"<(style|svg).*?</\1>", " ", answer.text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


@contextmanager
def shown(folder: Path) -> Iterator[httpx.Client]:
    with listening(page_of(folder_source(folder))) as url, httpx.Client(base_url=url) as client:
        yield client


@dataclass
class Held:
    """A source of these bytes; `asked` and `go` stand between a question and its answer."""

    raws: dict[Window, bytes]
    stamps: dict[Window, str] = field(default_factory=dict)
    pieces: bytes = b""
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Event | None = None
    owner: tuple[Hotkey, Digest] | None = None
    what: str = "a made-up source"

    def listed(self) -> Mapping[Window, str]:
        return {window: self.stamps.get(window, "") for window in self.raws}

    def verdict(self, window: Window) -> bytes:
        if self.go is not None:
            self.asked.release()
            assert self.go.wait(60)
        return self.raws[window]

    def evidence(self, window: Window) -> Pieces | None:
        self.asked.release()
        return Pieces(len(self.pieces), iter((self.pieces,)))


def void(window: int, reason: str, status: WindowStatus = WindowStatus.VOID) -> SignedVerdict:
    return signed(VerdictBody(NETWORK, Window(window), status, VERDICTS[0].body.versions, reason=reason))


# --- who said it ------------------------------------------------------------------------------------------------------


def test_another_validators_reason_is_not_told_as_this_ones(tmp_path: Path) -> None:
    for verdict in VERDICTS:
        publish(tmp_path, verdict)
    other = LocalSigner.from_seed(b"O" * 32)
    publish(tmp_path, signed(VERDICTS[1].body, other))
    publish(tmp_path, signed(replace(VERDICTS[2].body, network_id=Digest(b"o" * 32))))
    with shown(tmp_path) as client:
        for window, why in ((30, f"signed by {ss58(other.hotkey)}"), (60, "a verdict of another network")):
            for path in (f"/windows/{window}/{FAILED}", f"/windows/{window}/evidence.parquet"):
                answer = client.get(path)
                assert answer.status_code == 404
                assert why in text_of(answer).replace("Not here", "")
            assert client.get(f"/windows/{window}/verdict.json").status_code == 200


def test_whose_memory_a_verdict_rests_on_is_named(tmp_path: Path) -> None:
    former, body = LocalSigner.from_seed(b"F" * 32).hotkey, VERDICTS[0].body
    adopted = Adopted(former, Window(0), Window(30))
    body = replace(body, window=Window(60))
    signature = VALIDATOR.sign(SignedVerdict.message(body, VALIDATOR.hotkey, None, adopted))
    publish(tmp_path, SignedVerdict(body, VALIDATOR.hotkey, signature, None, adopted))
    with shown(tmp_path) as client:
        assert f"another validator 0 … 30, of {ss58(former)}" in text_of(client.get("/windows/60"))


# --- what is hidden ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [WindowStatus.VOID, WindowStatus.INCONCLUSIVE])
def test_a_window_that_nobody_was_scored_in_stands_on_every_miners_page_and_says_why(
    tmp_path: Path, status: WindowStatus
) -> None:
    for verdict in VERDICTS:
        publish(tmp_path, verdict)
    publish(tmp_path, void(90, "round 77 of the beacon could not be had", status))
    with shown(tmp_path) as client:
        page = client.get(f"/miners/{FAILED}")
        assert "Its last 6 windows, newest first; 1 failed, 1 not scored" in text_of(page)
        assert f"90 {status.value} explain : round 77" in text_of(page)
        assert f'href="/windows/90/{FAILED}"' in page.text
        reason = text_of(client.get(f"/windows/90/{FAILED}"))
    told = CliRunner().invoke(cli, ["explain", "90", "--hotkey", FAILED, "--from", str(tmp_path)]).output
    for line in told.splitlines():
        said = line.strip().removeprefix("window 90: ")
        assert said in reason or "calibration" in said or "hotkey" in said, line
    assert "round 77 of the beacon could not be had" in reason


def test_what_is_missing_between_two_pages_of_the_list_is_told() -> None:
    raws = {Window(30 * at): void(30 * at, "").encode() for at in range(PER_PAGE + 8) if at != 7}
    with listening(page_of(Held(raws))) as url:
        assert len(raws) - PER_PAGE == 7  # windows 0 to 6; 7 lies between the pages
        told = [text_of(httpx.get(f"{url}/windows?page={page}")).split("newest first")[1] for page in (0, 1)]
    assert ["210 no verdict" in one for one in told] == [False, True]
    assert told[1].index("210 no verdict") < told[1].index("180 void")
    assert "240 void" not in told[1]


def test_who_was_refused_is_not_told_to_have_sealed_nothing(tmp_path: Path) -> None:
    refused = reject("seal", detail="stored after the deadline")
    miner = MinerVerdict(PLAYED.hotkey(1), 1, MinerStatus.ABSENT, findings=(refused,))
    body = VERDICTS[0].body
    publish(tmp_path, signed(replace(body, miners=(miner, *body.miners[1:]), weights={2: 65_535})))
    with shown(tmp_path) as client:
        assert f"1 {FAILED[:10]}… seal refused" in text_of(client.get("/"))
        assert "1 hotkey that match" in text_of(client.get("/?q=refused"))


def test_a_replaced_verdict_of_an_old_window_is_told_anew() -> None:
    raws = {one.body.window: one.encode() for one in VERDICTS[:2]}
    raws |= {Window(30 * at): void(30 * at, "").encode() for at in range(2, MEMORY + 2)}
    source = Held(raws)
    page = page_of(source)
    with listening(page) as url:
        path = f"{url}/windows/30/{FAILED}"
        assert "a check rejects" in text_of(httpx.get(path))
        source.raws[Window(30)], source.stamps[Window(30)] = void(30, "taken back").encode(), "other"
        page.board.refresh()
        assert "void: taken back" in text_of(httpx.get(path))


def test_a_refused_seals_own_time_says_nothing_of_a_windows_age(tmp_path: Path) -> None:
    body = VERDICTS[0].body
    late = MinerVerdict(
        PLAYED.hotkey(1), 1, MinerStatus.ABSENT, store_time_ms=LATE_MS, findings=(reject("seal", detail="late"),)
    )
    publish(tmp_path, signed(replace(body, miners=(late, *body.miners[1:]))))
    true = body.miners[1].store_time_ms
    assert true is not None
    board = page_of(folder_source(tmp_path), now_ms=lambda: true + 5000).board
    assert board.age_ms() == 5000


def test_a_count_is_not_told_as_so_many_times_its_bound_where_explain_does_not(tmp_path: Path) -> None:
    missing = reject("seal", value=6, threshold=3, detail="6 groups are missing")
    body = PlayedNetwork(miners=3, fails={0: [1]}, findings=(missing,))
    publish(tmp_path, next(body.play(1)))
    with shown(tmp_path) as client:
        assert "seal reject 6 3 6 groups are missing" in text_of(client.get(f"/windows/0/{FAILED}"))


def test_what_one_check_found_is_not_told_of_another(tmp_path: Path) -> None:
    both = (reject("proof", value=0.5, threshold=0.3, detail="coarse_error: worst"), reject("logprob", detail="mean: too far"))
    publish(tmp_path, next(PlayedNetwork(miners=3, fails={0: [1]}, findings=both).play(1)))
    with shown(tmp_path) as client:
        told = text_of(client.get("/proof"))
    assert "proof 1 0, UID 1 proof 0.5 (threshold 0.3)" in told
    assert "logprob 1 0, UID 1 another check rejects it first" in told


def test_what_is_not_shown_is_not_counted_as_read_and_the_settings_network_not_as_the_verdicts(tmp_path: Path) -> None:
    for verdict in VERDICTS:
        publish(tmp_path, verdict)
    (tmp_path / verdict_key(Window(60))).write_bytes(b"{")
    with shown(tmp_path) as client:
        told = text_of(client.get("/"))
    assert "what the last 5 windows say" in told
    assert "5 scored of 5 read" in told
    assert f"on network id {NETWORK.hex()[:16]}… (the settings here name localnet)" in told
    assert f"2 {ss58(PLAYED.hotkey(2))[:10]}… earns" in told
    assert "no failure" in told


def test_a_look_back_whose_failure_is_missing_is_told_and_nothing_forecast_beyond_it(tmp_path: Path) -> None:
    for verdict in (*VERDICTS[:1], *VERDICTS[2:]):
        publish(tmp_path, verdict)
    with shown(tmp_path) as client:
        assert f"1 {FAILED[:10]}… worth 0, for a failure not shown here" in text_of(client.get("/"))
        told = text_of(client.get(f"/miners/{FAILED}"))
        assert "Nothing is forecast: it is inside the look-back of a failure that is not shown here" in told
        assert "goes on without failing" not in told
        assert "goes on without failing" in text_of(client.get(f"/miners/{ss58(PLAYED.hotkey(2))}"))


def test_the_command_that_says_the_same_reads_the_same_source(tmp_path: Path) -> None:
    publish(tmp_path / "bucket", VERDICTS[0])
    record(new_ledger(tmp_path / "ledger.sqlite"), VERDICTS[0])
    for source, said in (
        (LedgerSource(tmp_path / "ledger.sqlite"), ""),
        (folder_source(tmp_path / "bucket"), " --from VERDICTS"),
    ):
        with listening(page_of(source)) as url:
            told = text_of(httpx.get(f"{url}/windows/0/{FAILED}"))
        assert f"in a terminal: grail-validator explain 0 --hotkey {FAILED}{said} Verdicts of" in told


def test_a_failed_round_is_no_look_back_of_rollouts(tmp_path: Path) -> None:
    hotkey, rejects = hotkey_of(5), (reject("replay", value="0.41", threshold="0.12", detail="step 2, gradient"),)
    drawn, seal = digest("challenge", 5), unsigned_seal(hotkey)
    failed = MinerFacts(5, hotkey, seal, drawn, seal_time_ms=1000, findings=rejects, feedback_after=ZERO_ROOT)
    round_ = judge_round(round_facts([failed], {5: hotkey}), GradientMemory())
    signature = VALIDATOR.sign(SignedGradientVerdict.message(round_, VALIDATOR.hotkey))
    put(tmp_path, verdict_key(ROUND), SignedGradientVerdict(round_, VALIDATOR.hotkey, signature).encode())
    window = Window(ROUND + 210)
    worked = replace(VERDICTS[0].body.miners[0], hotkey=hotkey, uid=5)
    inputs = {5: score_inputs([worked.miner_window(window)], window)}
    body = replace(VERDICTS[0].body, network_id=round_.network_id, window=window)
    body = replace(body, miners=(worked,), hotkeys={5: hotkey}, score_inputs=inputs, weights={5: 65_535})
    publish(tmp_path, signed(body))
    with shown(tmp_path) as client:
        assert f"5 {ss58(hotkey)[:10]}… earns, failed before 65,535" in text_of(client.get("/"))


def test_a_source_whose_newest_window_is_an_older_one_again_is_not_young_for_it() -> None:
    source = Held({Window(30 * at): void(30 * at, "").encode() for at in range(3)})
    board = page_of(source).board
    source.raws[Window(90)] = void(90, "").encode()
    board.refresh()
    assert board.age_ms() is not None
    del source.raws[Window(90)]  # a copy of a ledger that was brought back
    board.refresh()
    assert board.age_ms() is None


def test_a_time_that_is_no_date_costs_no_page(tmp_path: Path) -> None:
    body = VERDICTS[0].body
    far = replace(body.miners[0], store_time_ms=2**53 - 1)
    publish(tmp_path, signed(replace(body, miners=(far, *body.miners[1:]))))
    with shown(tmp_path) as client:
        assert f"{2**53 - 1} ms" in text_of(client.get("/windows/0"))


def test_a_page_that_cannot_look_at_its_source_any_more_ends_and_says_why(tmp_path: Path) -> None:
    source, stop = Held({}), threading.Event()
    page = page_of(source)
    source.raws = None  # type: ignore[assignment]  # a mistake of ours
    with pytest.raises(TypeError), bind("127.0.0.1", 0) as bound, serving(page, bound, stop, refresh_seconds=0.01):
        assert stop.wait(60)
    path = tmp_path / "ledger.sqlite"
    record(new_ledger(path), VERDICTS[0])
    board = page_of(LedgerSource(path)).board
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = 'nobody' WHERE name = 'hotkey'")
    assert board.refresh().problem == "the ledger is damaged: it does not say whose it is"
    assert len(board.snapshot.records) == 1


# --- what nobody should read -----------------------------------------------------------------------------------------


def test_no_path_of_the_machine_is_on_any_page(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    record(new_ledger(path), VERDICTS[0])
    page = page_of(LedgerSource(path))
    raw = path.read_bytes()
    with listening(page) as url:
        for damage in (b"\0" * 8192, raw[:100] + b"\xff" * 4000 + raw[4100:], None):
            path.unlink()
            if damage is not None:
                path.write_bytes(damage)
            assert page.board.refresh().problem
            assert page.board.where
            for asked in ("/", "/windows", "/windows/0", f"/windows/0/{FAILED}", "/windows/0/verdict.json", "/healthz"):
                assert str(tmp_path) not in httpx.get(url + asked).text


# --- who is held up ---------------------------------------------------------------------------------------------------


def test_a_request_whose_body_never_ends_does_not_keep_its_connection() -> None:
    class Quick(TimedConnection):
        look_seconds = 0.1

    with listening(page_of(Held({})), http=Quick) as url, socket.create_connection(("127.0.0.1", int(url[17:])), 60) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert slow.recv(65536).startswith(b"HTTP/1.1 503")
        slow.sendall(b"x")  # the answer's keep-alive time is over with this
        while slow.recv(65536):
            pass


def test_who_waits_for_a_slow_store_keeps_nobody_from_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Held({one.body.window: one.encode() for one in VERDICTS})
    page = page_of(source)
    source.go = threading.Event()
    with listening(page) as url:
        ask = [threading.Thread(target=httpx.get, args=(f"{url}/windows/{30 * at}/{FAILED}",)) for at in range(app.AT_ONCE)]
        try:
            for thread in ask:
                thread.start()
            for _ in ask:
                assert source.asked.acquire(timeout=60)
            for path in ("/", "/metrics", f"/miners/{FAILED}", "/proof", "/checkpoints"):
                assert httpx.get(url + path, timeout=60).status_code == 200
        finally:
            source.go.set()
            for thread in ask:
                thread.join()


@pytest.mark.parametrize("path", ["verdict.json", "evidence.parquet"])
def test_large_answers_are_held_for_a_few_at_a_time(path: str) -> None:
    """Who asks and takes nothing would have every answer lie in memory."""
    large = b"x" * (16 * PIECE)
    source = Held({Window(0): signed(VERDICTS[0].body, evidence=large).encode()}, pieces=large)
    page = page_of(source)
    page.board.verdict(Window(0))
    source.raws[Window(0)] = large
    with listening(page) as url:
        held = [socket.create_connection(("127.0.0.1", int(url[17:])), 60) for _ in range(app.AT_ONCE)]
        for one in held:
            one.sendall(f"GET /windows/0/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert one.recv(12) == b"HTTP/1.1 200"
        assert httpx.get(f"{url}/windows/0/{path}").status_code == 503
        assert httpx.get(f"{url}/windows").status_code == 200
        for one in held:
            one.close()
        while (answer := httpx.get(f"{url}/windows/0/{path}")).status_code == 503:
            pass  # until the server has seen that they are gone
        assert answer.content == large


def test_looking_through_all_old_windows_keeps_no_more_than_a_few() -> None:
    raw = {Window(30 * at): void(30 * at, "").encode() for at in range(MEMORY + OLDER + 40)}
    board = Board(Held(raw))
    board.refresh()
    for window in raw:
        board.record(window, float("inf"))
    assert len(board._kept) <= MEMORY + OLDER


def test_another_sites_page_cannot_have_this_one_work_for_it(tmp_path: Path) -> None:
    publish(tmp_path, VERDICTS[0])
    with shown(tmp_path) as client:
        for kind, status in (("image", 403), ("iframe", 403), ("script", 403), ("empty", 403), ("document", 200)):
            headers = {"sec-fetch-site": "cross-site", "sec-fetch-dest": kind}
            assert client.get("/", headers=headers).status_code == status
        assert client.get("/", headers={"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}).status_code == 200


@pytest.mark.parametrize("host", ["127.1", "localhost", "127.0.0.2"])
def test_loopback_by_another_name_is_loopback(host: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is bound decides whether the Host header is looked at, and not how it was written."""
    stop = threading.Event()
    stop.set()
    settings, asked = load_settings(network="localnet"), ServeRequest(host, 0, str(tmp_path), None, None)
    serve_command(settings, asked, stop, as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["url"].startswith("http://127.0.0.")
    assert PUBLIC not in said.err


def test_a_second_one_is_refused_its_port_at_once_and_a_host_that_is_none_too() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(ConfigurationError, match="cannot be listened on"):
        bind("127.0.0.1", first.getsockname()[1])
    with pytest.raises(ConfigurationError, match="cannot be listened on"):
        bind("a" * 70, 0)
