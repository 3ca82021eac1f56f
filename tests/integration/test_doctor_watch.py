"""`doctor --watch`: what is planted into a real small network is said when it begins and when it ends, and ends nothing."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.beacon.development import DevelopmentKey, Relay
from grail_core.chain.base import Chain
from grail_core.clock import wall_clock_ms
from grail_core.commands.doctor_watch import Trouble, _of_finding, troubles_of, watch
from grail_core.errors import ChainError
from grail_core.examination.chain import clock
from grail_core.examination.known import MINER, TRAINER, VALIDATOR, Known, Role
from grail_core.participant.deployment import open_chain
from grail_core.participant.settings import Settings, load_settings, resolve_what_can_be
from grail_core.protocol import MinerStatus
from grail_core.telemetry.alerts import ALERTS
from tests.wrong_steps.steps import made_network, right_settings
from tooling.testing.network import GENESIS_S, Network
from tooling.testing.speaking import say, scored


@pytest.fixture
def network(tmp_path: Path) -> Network:
    (tmp_path / "network").mkdir()
    return made_network(tmp_path / "network")


@pytest.fixture
def settings(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """In the environment, of miner-0; with a relay that serves."""
    for name in [name for name in os.environ if name.startswith(("GRAIL_", "BT_", "R2_", "NETUID"))]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    key = DevelopmentKey.from_seed(b"small network")
    with Relay(key, genesis_time_s=GENESIS_S, period_s=1, port=0, clock=network.chain.now_ms) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        given = right_settings(network, tmp_path / "home")
        given |= {"GRAIL_BEACON_URLS": server.url, "BT_WALLET_HOT": "miner-0", "GRAIL_STORAGE_BUCKET": "bucket-miner-0"}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        yield given
        server.shutdown()
        thread.join()


def troubles(role: Role) -> dict[str, Trouble]:
    found, faults = resolve_what_can_be()
    return {one.name: one for one in troubles_of(found, faults, role)}


def test_what_is_planted_is_named_as_its_alert_is(network: Network, settings: dict[str, str]) -> None:
    assert {name for name in troubles(MINER) if name.startswith("Grail")} == set()
    body = scored(network, {"miner-0": (b"zero", MinerStatus.FAILED)})
    say(network, "validator-0", body)
    told = troubles(MINER)
    assert {"GrailMinerRejected", "GrailMinerDangerZone"} <= told.keys()
    assert "100 %" in told["GrailMinerRejected"].detail
    assert told["GrailMinerRejected"].action == next(one.action for one in ALERTS if one.name == "GrailMinerRejected")

    bucket = network.root / "buckets" / "bucket-miner-0"
    shutil.rmtree(bucket)
    bucket.write_text("no folder any more")
    assert "GrailStorageUnreachable" in troubles(MINER)
    bucket.unlink()
    bucket.mkdir()
    assert "GrailStorageUnreachable" not in troubles(MINER)

    network.chain.advance(30 * 12)
    told = troubles(MINER)
    assert {"GrailCheckpointStale", "GrailTrainerSilent"} <= told.keys()
    assert "12 windows" in told["GrailCheckpointStale"].detail or "13 windows" in told["GrailCheckpointStale"].detail


def test_weights_that_are_overdue_and_a_beacon_that_is_gone_are_named(
    network: Network, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BT_WALLET_HOT", "validator-0")
    monkeypatch.setenv("GRAIL_STORAGE_BUCKET", "bucket-validator-0")
    assert "GrailWeightsNotSet" not in troubles(VALIDATOR)
    network.chain.advance(4 * network.params.weight_interval)
    monkeypatch.setenv("GRAIL_BEACON_URLS", "http://127.0.0.1:9")  # nothing listens there
    told = troubles(VALIDATOR)
    assert {"GrailWeightsNotSet", "GrailBeaconLag"} <= told.keys()


def test_a_slow_clock_is_the_alert_of_clocks(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_NETWORK", "test")
    finding = clock(load_settings(), Known(), wall_clock_ms() + 60_000)
    (told,) = _of_finding(finding)
    assert told.name == "GrailClockSkew"
    assert "60" in told.detail


def test_a_chain_that_is_gone_is_a_finding_and_not_an_end(network: Network, settings: dict[str, str]) -> None:
    (network.root / "chain.sqlite").unlink()
    assert "GrailChainBehind" in troubles(MINER)


def test_only_what_changes_is_said_and_a_round_that_fails_or_hangs_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stop, hangs = threading.Event(), threading.Event()
    wrong = Trouble("GrailClockSkew", "critical", "60 s \x1b[31mbehind", "set it")
    rounds = iter(range(6))

    def look() -> list[Trouble]:
        number = next(rounds)
        if number == 5:
            stop.set()
            hangs.wait()
        if number == 3:
            raise RuntimeError("a bug")
        return [wrong] if number in (1, 2) else []

    watch(look, stop, "miner", every_s=0, as_json=False, leave_s=0.1)
    hangs.set()
    lines = capsys.readouterr().out.splitlines()
    said = [line.partition(" ")[2] for line in lines if "→" not in line]
    assert said[0].startswith("watching this miner")
    assert said[1] == "nothing is wrong"
    assert said[2].startswith("BEGAN  GrailClockSkew (critical): 60 s")
    assert said[3].startswith("ENDED  GrailClockSkew")
    assert said[4].startswith("BEGAN  doctor")
    assert said[5].startswith("ENDED  doctor")
    assert said[6] == "stopped; wrong at the end: nothing"
    assert len(said) == 7
    assert "\x1b" not in "".join(lines)


def test_a_round_that_takes_too_long_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    stop, goes_on = threading.Event(), threading.Event()
    rounds = iter(range(2))

    def look() -> list[Trouble]:
        if next(rounds):
            stop.set()
        else:
            threading.Timer(0.8, goes_on.set).start()
            goes_on.wait()
        return []

    watch(look, stop, "trainer", every_s=0, as_json=True, round_s=0.2)
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events == ["watching", "long_round", "nothing_wrong", "stopped"]


def test_a_round_that_is_stopped_takes_away_what_it_wrote() -> None:
    stop, left = threading.Event(), ["an object"]

    def look() -> list[Trouble]:
        stop.set()
        time.sleep(0.3)  # what a store takes to delete it
        left.clear()
        return []

    watch(look, stop, "trainer", every_s=0, as_json=True)
    assert left == []


@pytest.mark.parametrize("role", [MINER, VALIDATOR], ids=lambda role: role.name)
def test_a_round_opens_one_chain_and_closes_it(
    role: Role, network: Network, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def opening(settings: Settings) -> Chain:
        chain = open_chain(settings)
        opened.append(chain)
        return chain

    for module in ("examination.chain", "participant.deployment"):
        monkeypatch.setattr(f"grail_core.{module}.open_chain", opening)
    for number in range(1, 4):
        troubles(role)
        assert [one._connection for one in opened] == [None] * number
    assert not [path for path in network.root.glob("buckets/*/grail/doctor/*") if path.is_file()]


def test_a_chain_that_does_not_answer_is_closed_in_every_round(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        netuid, closed = 81, 0

        def current_block(self) -> int:
            raise ChainError("nobody answers")

        def close(self) -> None:
            self.closed += 1

    silent = Silent()
    monkeypatch.setattr("grail_core.examination.chain.open_chain", lambda settings: silent)
    assert "GrailChainBehind" in troubles(MINER)
    assert silent.closed == 1


@pytest.mark.parametrize("role", [MINER, VALIDATOR, TRAINER], ids=lambda role: role.name)
def test_every_role_has_the_command(role: Role) -> None:
    command = importlib.import_module(f"grail_{role.name}.cli").cli.commands["doctor"]
    assert {"watch", "every", "as_json"} <= {parameter.name for parameter in command.params}


def test_the_command_watches_until_it_is_told_to_stop(network: Network, settings: dict[str, str]) -> None:
    network.chain.advance(30 * 12)
    program = "from grail_miner.cli import main; import sys; sys.argv[0] = 'grail-miner'; main()"
    command = [sys.executable, "-c", program, "doctor", "--watch", "--every", "5", "--json"]
    said: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(json.loads(line))
            if said[-1]["event"] == "began":
                process.send_signal(signal.SIGINT)
                break
        said += [json.loads(line) for line in process.stdout]
        assert process.wait() == 0
    assert said[0]["event"] == "watching"
    assert said[-1]["event"] == "stopped"
    assert {"GrailTrainerSilent", "GrailCheckpointStale"} <= set(said[-1]["wrong"])
    assert all(one["role"] == "miner" for one in said)
