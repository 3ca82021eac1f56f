"""The beacon client against real HTTP relays: honest, lying, hanging, dead, and too early."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.beacon.base import Beacon, RoundNotYetError
from grail_core.beacon.bls import is_valid
from grail_core.beacon.chains import DEFAULT_CHAIN
from grail_core.beacon.development import DevelopmentBeacon, DevelopmentKey, Relay
from grail_core.beacon.drand import LATE_MS, DrandBeacon, parse_round
from grail_core.beacon.relays import LONGEST_REQUEST_S, LONGEST_REST_S, Rests
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.errors import BeaconError, ConfigurationError
from grail_core.protocol.beacon import BeaconChain
from tooling.testing.clock import ManualClock
from tooling.testing.scripted_server import Answer, RawAnswer, ScriptedServer

GENESIS_S, PERIOD_S = 1_700_000_000, 3
KEY = DevelopmentKey.from_seed(b"relay test")
CHAIN = BeaconChain(KEY.public_key, GENESIS_S, PERIOD_S)


@pytest.fixture
def clock() -> ManualClock:
    """Chain time; it starts when round 10 is due."""
    return ManualClock(CHAIN.time_of_ms(10))


@contextmanager
def serving(key: DevelopmentKey, clock: ManualClock) -> Iterator[Relay]:
    with Relay(key, genesis_time_s=GENESIS_S, period_s=PERIOD_S, port=0, clock=clock) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def relay(clock: ManualClock) -> Iterator[Relay]:
    with serving(KEY, clock) as server:
        yield server


def beacon(folder: Path, clock: ManualClock | None, *urls: str, **options: Any) -> DrandBeacon:
    return DrandBeacon(CHAIN, urls, folder, clock=clock, attempts=1, stagger_s=0.01, **options)


def test_a_round_comes_verified_from_a_relay_and_then_from_disk(tmp_path: Path, relay: Relay, clock: ManualClock) -> None:
    typed: Beacon = beacon(tmp_path, clock, relay.url + "/")
    signed = typed.get(7)
    assert is_valid(CHAIN.public_key, signed.round, signed.signature)
    assert signed == KEY.sign(7) == DevelopmentBeacon(KEY, CHAIN).get(7)
    offline = beacon(tmp_path, clock)
    assert offline.get(7) == signed
    with pytest.raises(BeaconError, match="no relay to ask"):
        offline.get(8)


def test_a_clock_that_was_set_back_does_not_keep_a_role_from_a_round_that_is_out(
    tmp_path: Path, relay: Relay, clock: ManualClock
) -> None:
    own = ManualClock(clock.now - 3_600_000)
    client = beacon(tmp_path, own, relay.url, patience_s=0.0)
    with pytest.raises(RoundNotYetError, match="due in"):
        client.get(9)  # it may be right: it is trusted for a while
    assert client.get(9) == KEY.sign(9)
    with pytest.raises(RoundNotYetError):
        client.get(12)
    with pytest.raises(RoundNotYetError, match="no relay has"):
        client.get(12)  # and the relays know that this one is not out


def test_a_round_before_its_time_is_not_asked_for(tmp_path: Path, relay: Relay, clock: ManualClock) -> None:
    client = beacon(tmp_path, clock, relay.url)
    clock.now -= 1
    with pytest.raises(RoundNotYetError, match=r"due in 0\.0 s"):
        client.get(10)
    clock.now += 1
    assert client.get(10).round == 10


def test_where_the_relays_clock_decides_a_round_before_its_time_is_not_yet(tmp_path: Path, relay: Relay) -> None:
    with pytest.raises(RoundNotYetError, match="no relay"):
        beacon(tmp_path, None, relay.url).get(11)


GENUINE = json.dumps({"round": 7, "signature": KEY.sign(7).signature.hex()})
LIES = {
    "another round's signature": Answer(200, json.dumps({"round": 7, "signature": KEY.sign(8).signature.hex()}).encode()),
    "another round": Answer(200, json.dumps({"round": 8, "signature": KEY.sign(8).signature.hex()}).encode()),
    "no JSON": Answer(200, b"<html>"),
    "deep JSON": Answer(200, b"[" * 4000),
    "no object": Answer(200, b"[7]"),
    "a truth value": Answer(200, GENUINE.replace("7,", "true,").encode()),
    "too much": Answer(200, GENUINE.encode() + b" " * 100_000),
    "an error": Answer(500, b""),
    "a redirect": Answer(302, headers={"Location": "@relay@/public/7"}),
    "broken compression": Answer(200, b"not gzip", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lying_relay_is_passed_over_and_alone_is_an_error(
    tmp_path: Path, relay: Relay, lie: Answer, clock: ManualClock
) -> None:
    headers = {name: value.replace("@relay@", relay.url) for name, value in lie.headers.items()}
    with ScriptedServer(replace(lie, headers=headers)) as liar:
        with pytest.raises(BeaconError, match="no relay gave a valid") as caught:
            beacon(tmp_path, clock, liar.url).get(7)
        assert not isinstance(caught.value, RoundNotYetError)
        assert beacon(tmp_path, clock, liar.url, relay.url).get(7) == KEY.sign(7)
        assert liar.requests >= 1


def test_a_relay_that_hangs_or_is_dead_does_not_hold_the_others_up(tmp_path: Path, relay: Relay, clock: ManualClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: nothing answers there, and nothing else comes there
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert beacon(tmp_path, clock, hanging, dead, relay.url).get(7) == KEY.sign(7)
        with pytest.raises(BeaconError, match=r"no answer in time|too slowly|timed out"):
            beacon(tmp_path / "other", clock, hanging, dead, timeout_s=0.05).get(7)


@pytest.mark.parametrize("url", ["", "no url", "ftp://x", "http://", "http://[::1"])
def test_a_relay_that_is_no_url_is_an_error_not_a_crash(tmp_path: Path, clock: ManualClock, url: str) -> None:
    with pytest.raises(BeaconError, match="no relay gave"):
        beacon(tmp_path, clock, url).get(7)


def test_a_damaged_cache_entry_is_fetched_again(tmp_path: Path, relay: Relay, clock: ManualClock) -> None:
    beacon(tmp_path, clock, relay.url).get(7)
    (entry,) = (path for path in tmp_path.rglob("*") if path.is_file())
    for damage in (b"", b"x" * 48, KEY.sign(8).signature):
        entry.write_bytes(damage)
        assert beacon(tmp_path, clock, relay.url).get(7) == KEY.sign(7)
        assert entry.read_bytes() == KEY.sign(7).signature


def test_a_cache_that_cannot_be_written_costs_nothing_but_requests(tmp_path: Path, relay: Relay, clock: ManualClock) -> None:
    (tmp_path / "file").touch()
    assert beacon(tmp_path / "file", clock, relay.url).get(7) == KEY.sign(7)


@pytest.mark.parametrize("round_", [0, -1, 2**63])
def test_rounds_that_do_not_exist_are_refused(tmp_path: Path, clock: ManualClock, round_: int) -> None:
    with pytest.raises(BeaconError, match="from 1"):
        beacon(tmp_path, clock).get(round_)


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_no_answer_crashes_the_parser(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse_round(raw)


def test_the_relay_answers_its_paths_only(relay: Relay) -> None:
    info = httpx.get(relay.url + "/info").json()
    assert (info["public_key"], info["period"], info["genesis_time"]) == (KEY.public_key.hex(), PERIOD_S, GENESIS_S)
    for path in ("/", "/public/newest", "/public/0", "/public/01", "/public/-1", "/public/7/x", "/public/" + "9" * 40):
        assert httpx.get(relay.url + path).status_code == 404
    newest = httpx.get(relay.url + "/public/latest").json()["round"]
    assert relay.chain.time_of_ms(newest) <= relay.clock() < relay.chain.time_of_ms(newest + 2)
    assert httpx.get(relay.url + "/public/11").status_code == 425


def test_the_relay_process_follows_the_chains_clock_and_stops_cleanly(tmp_path: Path) -> None:
    chain = LocalChain.create(tmp_path / "c.sqlite", seed=1, clock=ClockMode.VIRTUAL, genesis_time_ms=GENESIS_S * 1000)
    KEY.save(tmp_path / "beacon.key")
    command = [sys.executable, "-m", "grail_core.commands.development_beacon", "--key-file", str(tmp_path / "beacon.key")]
    command += ["--chain", str(tmp_path / "c.sqlite"), "--genesis", str(GENESIS_S), "--period", str(PERIOD_S)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    client = DrandBeacon(CHAIN, [url], tmp_path / "cache", clock=None, attempts=1)
    with pytest.raises(RoundNotYetError):
        client.get(2)
    chain.advance_ms(PERIOD_S * 1000)
    assert client.get(2) == KEY.sign(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    process.stdout.close()


def test_key_files_are_private_and_a_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "beacon.key"
    KEY.save(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert DevelopmentKey.load(path).public_key == KEY.public_key
    path.write_text("00" * 31)
    for bad in (path, tmp_path / "none"):
        with pytest.raises(ConfigurationError) as caught:
            DevelopmentKey.load(bad)
        assert caught.value.where == str(bad)


def test_a_port_in_use_is_a_clear_error(relay: Relay) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen"):
        Relay(KEY, genesis_time_s=0, period_s=1, port=relay.server_address[1])


# --- relays of another chain, relays that rest ------------------------------------------------------------------------


class Seconds:
    """A monotonic clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_relay_of_another_chain_is_named_as_one_and_the_next_relay_serves_the_round(
    tmp_path: Path, relay: Relay, clock: ManualClock
) -> None:
    stranger = DevelopmentKey.from_seed(b"another chain")
    with serving(stranger, clock) as other:
        with pytest.raises(BeaconError, match=r"relay serves chain [0-9a-f]{12}….*the network's is that of key") as caught:
            beacon(tmp_path, clock, other.url).get(7)
        assert "GRAIL_NETWORK" in caught.value.hint
        assert beacon(tmp_path, clock, other.url, relay.url).get(7) == KEY.sign(7)


def test_a_relay_of_the_chained_chain_is_named_by_its_hash(tmp_path: Path, clock: ManualClock) -> None:
    chained = {"round": 7, "signature": "ab" * 96, "previous_signature": "cd" * 96}
    answers = (Answer(200, json.dumps(chained).encode()), Answer(200, json.dumps(DEFAULT_CHAIN.to_json()).encode()))
    with ScriptedServer(*answers) as other:
        with pytest.raises(BeaconError, match="relay serves chain 8990e7a9aaed…"):
            beacon(tmp_path, clock, other.url).get(7)
        assert other.requests == 2


def test_a_relay_that_lies_is_asked_for_its_chain_once_and_not_with_every_lie(tmp_path: Path, clock: ManualClock) -> None:
    with ScriptedServer(Answer(200, json.dumps({"round": 7, "signature": "ab" * 48}).encode())) as liar:
        client = beacon(tmp_path, clock, liar.url)
        for _ in range(3):
            with pytest.raises(BeaconError, match="does not verify"):
                client.get(7)
        assert liar.requests == 3 + 1


def refusal(client: DrandBeacon) -> str:
    """Why round 7 cannot be had, empty where it can."""
    try:
        assert client.get(7) == KEY.sign(7)
    except BeaconError as error:
        return error.what
    return ""


def test_relays_that_are_down_for_hours_are_asked_about_once_a_minute_and_once_when_they_are_back(
    tmp_path: Path, clock: ManualClock
) -> None:
    seconds, outage_s = Seconds(), 2 * 3600
    down, up = Answer(503), Answer(200, json.dumps({"round": 7, "signature": KEY.sign(7).signature.hex()}).encode())
    with ScriptedServer(down) as one, ScriptedServer(down) as two:
        client = beacon(tmp_path, clock, one.url, two.url, monotonic=seconds)
        for _ in range(outage_s):  # a role asks every second
            with pytest.raises(BeaconError, match="no relay gave"):
                client.get(7)
            seconds.now += 1
        during, during_two = one.requests, two.requests
        assert outage_s / 62 <= during <= outage_s / 30 + 12
        one.answers = two.answers = (up,)
        last = ""
        while "left alone for" in (last := refusal(client)):
            seconds.now += 1
        assert last == ""
        assert one.requests - during + two.requests - during_two <= 2
        assert seconds.now < 1000 + outage_s + 61


def test_a_round_that_came_late_is_told_with_how_late(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = Seconds()
    genuine = Answer(200, GENUINE.encode())
    with ScriptedServer(Answer(503), genuine) as slow, caplog.at_level("INFO", logger="grail_core"):
        client = beacon(tmp_path, clock, slow.url, monotonic=seconds)
        with pytest.raises(BeaconError):
            client.get(7)
        seconds.now += LATE_MS / 1000 + 1
        client.get(7)
    (record,) = [record for record in caplog.records if record.getMessage() == "beacon_late"]
    assert vars(record)["grail_event_fields"] == {"round": 7, "ms": LATE_MS + 1000}
    with ScriptedServer(Answer(425), genuine) as early, caplog.at_level("INFO", logger="grail_core"):
        caplog.clear()
        client = DrandBeacon(CHAIN, [early.url], tmp_path / "early", clock=None, attempts=1, monotonic=seconds)
        with pytest.raises(RoundNotYetError):
            client.get(7)
        seconds.now += 3600
        client.get(7)  # it was not due before: nobody waited for it
        assert [record.getMessage() for record in caplog.records] == []


def test_a_relay_that_says_too_early_long_after_the_time_has_failed(tmp_path: Path, clock: ManualClock) -> None:
    clock.now = CHAIN.time_of_ms(7) + 10 * PERIOD_S * 1000
    with ScriptedServer(Answer(425)) as behind:
        client = beacon(tmp_path, clock, behind.url, monotonic=Seconds())
        for _ in range(20):
            with pytest.raises(BeaconError) as caught:
                client.get(7)
            assert not isinstance(caught.value, RoundNotYetError)
        assert behind.requests == 3


def test_a_relay_that_hangs_is_not_joined_by_more_than_a_few_requests(tmp_path: Path, clock: ManualClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = beacon(tmp_path, clock, f"http://127.0.0.1:{silent.getsockname()[1]}")
        rests = client._rests
        (url,) = client._relays
        assert [rests.claim(url) for _ in range(6)] == [True] * 4 + [False] * 2
        with pytest.raises(BeaconError, match="no answer yet"):
            client.get(7)


def test_a_place_at_a_relay_is_not_held_for_ever_by_a_request_whose_end_nobody_told() -> None:
    seconds = Seconds()
    rests = Rests(("http://relay",), monotonic=seconds)
    assert [rests.claim("http://relay") for _ in range(5)] == [True] * 4 + [False]
    seconds.now += LONGEST_REQUEST_S
    assert rests.claim("http://relay")


def test_a_relay_that_dripped_is_asked_again_and_its_honest_answer_is_taken(tmp_path: Path, clock: ManualClock) -> None:
    drip = RawAnswer(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n", b"x", -1, 0.01)
    seconds = Seconds()
    with ScriptedServer(drip) as relay:
        client = beacon(tmp_path, clock, relay.url, timeout_s=0.2, monotonic=seconds)
        for _ in range(5):  # more than may be asked at once: by then each of them has ended
            told = refusal(client)
            assert "too slowly" in told or "no answer in time" in told
            seconds.now += LONGEST_REST_S
        relay.answers = (Answer(200, GENUINE.encode()),)
        while refusal(client):
            seconds.now += 1
            assert seconds.now < 1000 + 7 * LONGEST_REST_S


def test_a_compressed_round_is_refused_as_one_and_not_unpacked(tmp_path: Path, relay: Relay, clock: ManualClock) -> None:
    bomb = Answer(200, gzip.compress(bytes(1 << 20)), {"Content-Encoding": "gzip"})
    with ScriptedServer(bomb) as liar:
        with pytest.raises(BeaconError, match="compressed"):
            beacon(tmp_path, clock, liar.url).get(7)
        assert beacon(tmp_path, clock, liar.url, relay.url).get(7) == KEY.sign(7)


def test_no_error_and_no_log_line_shows_what_gives_access_to_a_relay(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="grail_core")
    with ScriptedServer(Answer(503)) as one:
        host = one.url.removeprefix("http://")
        urls = [
            f"http://me:sw0rdfish@{host}",
            f"http://{host}/sw0rdfish",
            f"http://{host}/?key=sw0rdfish",
            "http://me:sw0rdfish",
        ]
        with pytest.raises(BeaconError) as caught:
            beacon(tmp_path, clock, *urls).get(7)
    assert f"http://***@{host}: HTTP 503" in caught.value.what
    assert "sw0rdfish" not in str(caught.value)
    assert len(caplog.records) >= len(urls)
    assert "sw0rdfish" not in "".join(str(vars(record)) for record in caplog.records)
