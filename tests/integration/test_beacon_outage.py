"""Roles of one network behind real relays that lie or are all gone: nobody is fooled, and all lose the same windows."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grail_core.beacon.development import DevelopmentKey
from grail_core.beacon.drand import DrandBeacon
from grail_core.participant import waiting
from grail_core.participant.outcomes import Opened
from grail_core.protocol import WindowStatus
from grail_core.protocol.types import Window
from grail_core.storage.retention import Retention
from grail_miner.service import MinerService
from grail_trainer.data.intake import VerdictListener
from grail_validator.service import ValidatorService
from tooling.testing.beacon_relays import TestedRelay, down, relays
from tooling.testing.driven_chain import Unhurried
from tooling.testing.faults import events
from tooling.testing.mining import upload
from tooling.testing.network import GENESIS_S
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork

KEY = DevelopmentKey.from_seed(b"small network")
OTHER = DevelopmentKey.from_seed(b"another chain")
VOID_AFTER_D = 40
MINER, VALIDATOR = "miner-0", "validator-0"


class VoidSooner(SmallNetwork):
    """A network whose windows are void sooner, so that an outage over three of them is short."""

    def _name(self, *arguments: object) -> None:
        super()._name(*arguments)  # type: ignore[arg-type]
        self.params = dataclasses.replace(self.params, void_after_D=VOID_AFTER_D)


@pytest.fixture
def network(tmp_path: Path) -> SmallNetwork:
    return VoidSooner(tmp_path, miners=1, validators=1)


@pytest.fixture
def served(network: SmallNetwork) -> Iterator[list[TestedRelay]]:
    with relays(KEY, network.params.beacon, network.chain.now_ms, 2) as servers:
        yield servers


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)
    monkeypatch.setattr(waiting, "BEACON_SECONDS", 0)


def beacon_of(network: SmallNetwork, name: str, served: list[TestedRelay]) -> DrandBeacon:
    """A role's own client; its relays rest by the network's time."""
    return DrandBeacon(
        network.params.beacon,
        [server.url for server in served],
        network.root / "cache" / name / "beacon",
        clock=network.chain.now_ms,
        attempts=2,
        retry_s=0.0,
        stagger_s=0.0,
        monotonic=lambda: network.chain.now_ms() / 1000,
    )


class Roles:
    """A miner, a validator and a trainer's ear, each with its own beacon. A block passes whenever one of them waits."""

    def __init__(self, network: SmallNetwork, served: list[TestedRelay]) -> None:
        self.network, self.served = network, served
        beacons = {name: beacon_of(network, name, served) for name in (MINER, VALIDATOR, "trainer")}
        network.beacon = beacons[MINER]  # type: ignore[assignment]  # of the helpers that mine
        self.mining = network.mining(MINER)
        participant = dataclasses.replace(network.participant(MINER), beacon=beacons[MINER])
        self.miner = MinerService(participant, self.mining, Retention(participant.own_store, []), max_groups=1, safety_blocks=2)
        self.validator: ValidatorService = network.validator(VALIDATOR, beacon=beacons[VALIDATOR])
        self.ear = VerdictListener(
            dataclasses.replace(network.participant("trainer"), beacon=beacons["trainer"]), max_windows_old=20
        )

    def time(self) -> Unhurried:
        return Unhurried(lambda _: self.network.chain.advance(1))

    def sight(self, window: Window) -> None:
        self.network.advance_to(window + 30)
        self.validator.first_sight.sight(window)

    def asked(self) -> int:
        return sum(len(server.requests) for server in self.served)


def test_relays_that_are_gone_void_every_window_for_every_role_and_the_next_one_is_judged_without_a_flood(
    network: SmallNetwork, served: list[TestedRelay]
) -> None:
    roles, windows = Roles(network, served), [Window(FIRST_WINDOW + 30 * i) for i in range(3)]
    for server in served:
        server.fault = down
    with events() as names:
        for window in windows:
            network.advance_to(window + 1)
            assert not roles.miner._try_window(window, roles.time())
            roles.sight(window)
        judged = [roles.validator.advance(window, roles.time()) for window in windows]
        intakes = [roles.ear.wait(window, roles.time()) for window in windows]
    assert names.count("window_skipped") == len(windows)
    assert judged == [WindowStatus.VOID] * len(windows)
    for intake in intakes:
        assert "could not be had in time" in intake.reason  # type: ignore[union-attr]
    seconds = (network.chain.now_ms() / 1000) - (GENESIS_S + (FIRST_WINDOW + 1) * 1.5)
    during = roles.asked()
    # Three roles, two relays: a few free failures, growing rests, then one request a half to a whole minute.
    assert during <= 3 * 2 * (12 + seconds / 30)

    for server in served:
        server.fault = None
    following = Window(-(-network.chain.current_block() // 30) * 30)
    network.advance_to(following + 1)
    had = waiting.wait_for_window(roles.miner.participant, following, roles.time())
    assert isinstance(had, Opened)
    upload(network, roles.mining, MINER, network.mine(roles.mining, following, [0]), following)
    roles.sight(following)
    assert roles.validator.advance(following, roles.time()) is WindowStatus.SCORED
    intake = roles.ear.wait(following, roles.time())
    assert len(intake.wanted) == 1  # type: ignore[union-attr]
    rounds = {path for server in served for path in server.requests[-12:] if path.startswith("/public/")}
    assert roles.asked() - during <= 3 * 2 * 4, f"{rounds}"


def test_forged_and_stale_rounds_are_refused_by_every_role_and_the_next_relay_serves_the_right_one(
    network: SmallNetwork, served: list[TestedRelay]
) -> None:
    lies = {
        "forged": lambda round_: OTHER.sign(round_).signature,
        "stale": lambda round_: KEY.sign(round_ - 1).signature,
    }
    roles, window = Roles(network, served), FIRST_WINDOW
    told: list[str] = []

    def lie(path: str, true: tuple[int, dict[str, object]]) -> tuple[int, dict[str, object]]:
        if not path.startswith("/public/") or true[0] != 200:
            return true
        round_ = int(path.rsplit("/", 1)[1])
        name = sorted(lies)[len(told) % 2]
        told.append(name)
        return 200, {"round": round_, "signature": lies[name](round_).hex()}

    served[0].fault = lie
    network.advance_to(window + 2)
    upload(network, roles.mining, MINER, network.mine(roles.mining, window, [0]), window)
    roles.sight(window)
    assert roles.validator.advance(window, roles.time()) is WindowStatus.SCORED
    assert len(roles.ear.wait(window, roles.time()).wanted) == 1  # type: ignore[union-attr]
    assert {"forged", "stale"} <= set(told)
    seed = network.participant(MINER).open_window(window).beacon
    assert seed is not None
    assert seed == KEY.sign(seed.round)


def test_a_window_file_is_verified_without_any_network(network: SmallNetwork, tmp_path: Path) -> None:
    """Round and signature are in the file: a process whose sockets are refused verifies them."""
    network.advance_to(FIRST_WINDOW + 2)
    path = tmp_path / "window.parquet"
    path.write_bytes(network.mine(network.mining(MINER), FIRST_WINDOW, [0]))
    code = """
import sys, json
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
        raise OSError("no network here")
sys.addaudithook(refuse)
from grail_core.beacon.bls import is_valid
from grail_core.files.window_file import header_of
header = header_of(open(sys.argv[1], "rb").read())
key, round_, signature = bytes.fromhex(sys.argv[2]), header.beacon_round, header.beacon_signature
print(json.dumps([round_, is_valid(key, round_, signature), is_valid(key, round_ + 1, signature)]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(path), KEY.public_key.hex()], capture_output=True, text=True, check=True
    )
    round_, verifies, another = json.loads(ran.stdout)
    assert verifies
    assert not another
    assert KEY.sign(round_) == network.beacon.get(round_)
