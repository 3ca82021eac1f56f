"""`grail beacon`: relays one by one, rounds of any chain, and what a role is told of --use-drand and --no-drand."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from grail_core.beacon.chains import DEFAULT_CHAIN
from grail_core.beacon.development import DevelopmentKey, Relay
from grail_core.clock import wall_clock_ms
from grail_core.commands.grail import cli
from grail_core.commands.options import beacon_option
from grail_core.errors import BeaconError, ConfigurationError
from grail_core.participant.settings import Settings
from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.network import LOCALNET
from tooling.testing.scripted_server import Answer, ScriptedServer

KEY = DevelopmentKey.from_seed(b"commands")
CHAIN = BeaconChain(KEY.public_key, 1_700_000_000, 3)
DEFAULT_ROUND_1 = {
    "round": 1,
    "previous_signature": DEFAULT_CHAIN.group_hash.hex(),
    "signature": "8d61d9100567de44682506aea1a7a6fa6e5491cd27a0a0ed349ef6910ac5ac20ff7bc3e09d7c046566c9f7f3c6f3b101"
    "04990e7cb424998203d8f7de586fb7fa5f60045417a432684f85093b06ca91c769f0e7ca19268375e659c2a2352b4655",
}


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay(KEY, genesis_time_s=CHAIN.genesis_time_s, period_s=CHAIN.period_s, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def network_file(folder: Path, **changes: Any) -> str:
    path = folder / "network.json"
    params = dataclasses.replace(LOCALNET, beacon=CHAIN, **changes)
    path.write_text(json.dumps(params.to_json()))
    return str(path)


def grail(folder: Path, *arguments: str, urls: str = "", network: str = "") -> Result:
    """GRAIL_* of the machine do not count."""
    env = {
        "GRAIL_NETWORK": network or network_file(folder),
        "GRAIL_BEACON_URLS": urls,
        "GRAIL_CACHE_DIR": str(folder / "cache"),
    }
    return CliRunner().invoke(cli, ["beacon", *arguments], env=env)


def test_the_doctor_says_of_each_relay_what_it_serves_how_fast_and_whether_it_verifies(tmp_path: Path, relay: Relay) -> None:
    other = Answer(200, json.dumps(DEFAULT_CHAIN.to_json()).encode())
    with ScriptedServer(other) as foreign, ScriptedServer(Answer(503)) as dead:
        ran = grail(tmp_path, "doctor", "--json", urls=f"{relay.url},{foreign.url},{dead.url}")
    assert ran.exit_code == 0, ran.output
    good, wrong, gone = json.loads(ran.stdout)["relays"]
    assert good["ok"]
    assert good["milliseconds"] >= 0
    assert not wrong["ok"]
    assert wrong["told"].startswith("relay serves chain 8990e7a9aaed…")
    assert gone["told"] == "HTTP 503"


@pytest.mark.parametrize("arguments", [("doctor",), ("doctor", "--json"), ("round", "7"), ("round", "7", "--json")])
def test_what_gives_access_to_a_relay_is_shown_neither_where_it_works_nor_where_it_does_not(
    tmp_path: Path, relay: Relay, arguments: tuple[str, ...]
) -> None:
    with ScriptedServer(Answer(503)) as dead:
        urls = [
            f"{url.replace('://', '://me:sw0rdfish@')}{end}" for url in (dead.url, relay.url) for end in ("/?a=sw0rdfish", "")
        ]
        works, broken = grail(tmp_path, *arguments, urls=",".join(urls)), grail(tmp_path, *arguments, urls=urls[1])
    assert works.exit_code == 0, works.output
    assert isinstance(broken.exception, BeaconError)
    for ran in (works, broken):
        assert "sw0rdfish" not in f"{ran.output}{ran.exception}"
    if arguments[0] == "doctor":
        assert dead.url.replace("://", "://***@") in works.output
    else:
        assert dead.url.replace("://", "://***@") in str(broken.exception)


@contextmanager
def relays_at(offset_ms: int, number: int) -> Iterator[str]:
    """Relays whose clocks are off by so much, as a setting."""
    with ExitStack() as stack:
        urls = []
        for _ in range(number):
            server = stack.enter_context(
                Relay(
                    KEY,
                    genesis_time_s=CHAIN.genesis_time_s,
                    period_s=CHAIN.period_s,
                    port=0,
                    clock=lambda: wall_clock_ms() + offset_ms,
                )
            )
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            urls.append(server.url)
        yield ",".join(urls)


@pytest.mark.parametrize(
    ("offset_ms", "number", "said"),
    [
        (-3_600_000, 2, r"this machine's clock is 36\d\d s ahead of all 2 relays': it is this machine's that is wrong"),
        (-3_600_000, 1, r"this machine's clock is 36\d\d s ahead of the one relay that says: one of the two is wrong"),
        (3_600_000, 2, r"this machine's clock is at least 3[56]\d\d s behind"),
    ],
)
def test_the_doctor_says_whose_clock_is_wrong_by_how_much_and_what_to_do(
    tmp_path: Path, offset_ms: int, number: int, said: str
) -> None:
    with relays_at(offset_ms, number) as urls:
        ran = grail(tmp_path, "doctor", urls=urls)
    assert isinstance(ran.exception, BeaconError)
    assert re.search(said, ran.exception.hint)
    assert re.search(said, ran.stdout)
    assert "NTP" in ran.exception.hint


def test_a_relay_that_is_behind_alone_is_no_reason_to_doubt_this_machines_clock(tmp_path: Path, relay: Relay) -> None:
    with relays_at(-3_600_000, 1) as behind:
        ran = grail(tmp_path, "doctor", "--json", urls=f"{behind},{relay.url}")
    assert ran.exit_code == 0, ran.output
    value = json.loads(ran.stdout)
    assert value["clock"] == {"ok": True, "off_s": 0.0, "told": "in step with the relays'"}
    assert (value["chain"], value["public_key"]) == (None, CHAIN.public_key.hex())
    late, good = value["relays"]
    assert (late["ok"], late["too_early"], good["ok"]) == (False, True, True)
    assert "its clock is behind this machine's" in late["told"]


def test_the_doctor_ends_with_9_where_no_relay_is_good(tmp_path: Path) -> None:
    with ScriptedServer(Answer(503)) as dead:
        ran = grail(tmp_path, "doctor", urls=dead.url)
    assert isinstance(ran.exception, BeaconError)
    assert "BROKEN" in ran.stdout


def test_a_network_without_a_beacon_has_no_relay_to_ask(tmp_path: Path) -> None:
    ran = grail(tmp_path, "doctor", network=network_file(tmp_path, beacon_policy="off"))
    assert ran.exit_code == 0
    assert "has no beacon" in ran.stdout


def test_a_round_of_the_network_is_had_from_the_relay_that_gives_a_true_one(tmp_path: Path, relay: Relay) -> None:
    lie = json.dumps({"round": 7, "signature": KEY.sign(8).signature.hex()}).encode()
    with ScriptedServer(Answer(200, lie)) as liar:
        ran = grail(tmp_path, "round", "7", "--json", urls=f"{liar.url},{relay.url}")
        assert json.loads(ran.stdout)["randomness"] == KEY.sign(7).randomness.hex()
        alone = grail(tmp_path, "round", "7", urls=liar.url)
    assert isinstance(alone.exception, BeaconError)
    assert "does not verify" in alone.exception.what


def test_a_round_of_the_chained_chain_is_verified_from_a_file_without_asking_anybody(tmp_path: Path) -> None:
    path = tmp_path / "round.json"
    path.write_text(json.dumps(DEFAULT_ROUND_1))
    ran = grail(tmp_path, "round", "1", "--chain", "default", "--file", str(path), "--json")
    assert json.loads(ran.stdout)["chain"] == DEFAULT_CHAIN.hash.hex()
    without = {name: value for name, value in DEFAULT_ROUND_1.items() if name != "previous_signature"}
    for content, number, told in (
        (json.dumps(without), "1", "round before"),
        (json.dumps(DEFAULT_ROUND_1), "2", "another round"),
        ("{", "1", "no round"),
    ):
        path.write_text(content)
        refused = grail(tmp_path, "round", number, "--chain", "default", "--file", str(path))
        assert isinstance(refused.exception, BeaconError)
        assert told in refused.exception.what
        assert "relay" not in refused.exception.hint


def test_a_chain_that_is_not_supported_or_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    path.write_text(json.dumps({**DEFAULT_CHAIN.to_json(), "schemeID": "bls-bn254-unchained-on-g1"}))
    unsupported = grail(tmp_path, "round", "1", "--chain", str(path))
    assert isinstance(unsupported.exception, BeaconError)
    assert "bls-bn254-unchained-on-g1" in unsupported.exception.what
    missing = grail(tmp_path, "round", "1", "--chain", "quicknot")
    assert isinstance(missing.exception, ConfigurationError)


@pytest.mark.parametrize("beacon", [{"scheme": "pedersen-bls-chained"}, {"public_key": DEFAULT_CHAIN.public_key.hex()}])
def test_a_network_file_with_a_chained_beacon_is_refused_with_what_a_network_may_have(
    tmp_path: Path, beacon: dict[str, str]
) -> None:
    path = Path(network_file(tmp_path))
    value = json.loads(path.read_text())
    value["beacon"] |= beacon
    path.write_text(json.dumps(value))
    ran = grail(tmp_path, "doctor", network=str(path))
    assert isinstance(ran.exception, ConfigurationError)
    assert "bls-unchained-g1-rfc9380" in ran.exception.what


@pytest.mark.parametrize(
    ("policy", "option", "refused"),
    [
        ("required", None, None),
        ("required", "--use-drand", None),
        ("required", "--no-drand", "requires its beacon"),
        ("off", "--no-drand", None),
        ("off", "--use-drand", "has no beacon"),
        ("off", None, "has no beacon"),
    ],
)
def test_what_a_role_is_told_of_the_beacon_is_the_networks_policy_or_an_error(
    tmp_path: Path, policy: str, option: str | None, refused: str | None
) -> None:
    network = network_file(tmp_path, beacon_policy=policy)

    @click.command()
    @beacon_option
    def run(settings: Settings) -> None:
        click.echo("runs")

    settings = Settings.model_validate({"GRAIL_NETWORK": network})
    ran = CliRunner().invoke(with_settings(run, settings), [option] if option else [])
    if refused is None:
        assert ran.output == "runs\n"
    else:
        assert isinstance(ran.exception, ConfigurationError)
        assert refused in ran.exception.what
        assert ran.exception.exit_code == 3


def with_settings(command: click.Command, settings: Settings) -> click.Command:
    """The command as `common_options` calls it."""
    inner: Any = command.callback
    command.callback = lambda **rest: inner(settings, **rest)
    return command
