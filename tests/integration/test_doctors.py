"""Every role's doctor names all that is wrong in one run, from settings to data sets, and ends well where nothing is."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grail_core.beacon.development import DevelopmentKey, Relay
from grail_core.examination.findings import ORDER
from grail_core.protocol.manifest import CheckpointManifest
from tests.wrong_steps.steps import Place, made_network, right_settings
from tests.wrong_steps.with_keys import hotkey
from tooling.testing.network import GENESIS_S, Network

OWNERS = {"miner": "miner-0", "validator": "validator-0", "trainer": "trainer"}
Ask = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return made_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def relay(network: Network) -> Iterator[str]:
    key = DevelopmentKey.from_seed(b"small network")
    with Relay(key, genesis_time_s=GENESIS_S, period_s=1, port=0, clock=network.chain.now_ms) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.fixture
def place(network: Network, relay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in [name for name in os.environ if name.startswith(("GRAIL_", "BT_", "R2_", "NETUID"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    made = Place(network, tmp_path, right_settings(network, tmp_path))
    made.settings["GRAIL_BEACON_URLS"] = relay
    return made


@pytest.fixture
def ask(place: Place, monkeypatch: pytest.MonkeyPatch) -> Ask:
    def run(role: str, *options: str, **changed: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """Exit code, and findings by name."""
        place.of(OWNERS[role])
        for name, value in {**place.settings, **changed}.items():
            monkeypatch.setenv(name, value)
        cli = importlib.import_module(f"grail_{role}.cli").cli
        done = CliRunner().invoke(cli, ["doctor", "--json", *options])
        said = json.loads(done.stdout)
        sections = [ORDER.index(one["section"]) for one in said["findings"]]
        assert sections == sorted(sections), "in the order of who mends what first"
        return getattr(done.exception, "exit_code", done.exit_code), {one["name"]: one for one in said["findings"]}

    return run


@pytest.mark.parametrize("role", ["validator", "trainer"])
def test_a_role_that_lacks_nothing_is_told_so(role: str, ask: Ask) -> None:
    code, found = ask(role)
    assert [one for one in found.values() if one["state"] == "broken"] == []
    assert code == 0
    for name in ("parameters", "wallet", "write", "chain", "registration", "beacon", "checkpoint", "state", "environment"):
        assert found[name]["state"] == "ok", found[name]
    assert found["BT_NETWORK"]["origin"] == "environment"
    assert ("permit" in found) == (role == "validator")


@pytest.mark.parametrize("role", OWNERS)
def test_seven_faults_of_one_machine_are_named_in_one_run(role: str, ask: Ask, place: Place) -> None:
    hotkey(keep=40)(place)
    place.write("file", "")
    (place.folder / ".env").write_text("GRAIL_DEVICE=gpu\n")
    del place.settings["GRAIL_DEVICE"]
    code, found = ask(
        role,
        BT_WALLET_HOT="miner-0",
        BT_WALLET_NAME="cold",
        GRAIL_BEACON_URLS="api.drand.sh/52db",
        GRAIL_CACHE_DIR="file",
        GRAIL_STORAGE_BUCKET="../elsewhere",
        NETUID="82",
        GRAIL_LOG_FILE="file/role.log",
    )
    assert code == 3
    for name, says in {
        "GRAIL_DEVICE": "cuda",
        "GRAIL_BEACON_URLS": "https://",
        "GRAIL_LOG_FILE": "file",
        "netuid": "82",
        "wallet": "damaged",
        "bucket": "bucket name",
        "cache": "GRAIL_CACHE_DIR",
    }.items():
        assert found[name]["state"] == "broken", (name, found.get(name))
        assert says in found[name]["detail"] + found[name]["hint"], found[name]
    assert found["GRAIL_DEVICE"]["exit_code"] == 3
    assert ".env, line 1" in found["GRAIL_DEVICE"]["detail"]
    assert found["BT_WALLET_NAME"]["state"] == "warning"
    assert found["BT_WALLET_NAME"]["hint"] == "set BT_WALLET_COLD in its place"
    assert "new-hotkey" not in found["wallet"]["hint"], "a new key would be another participant"


@pytest.mark.parametrize("role", ["miner", "trainer"])
def test_parameters_of_another_network_than_the_manifests_are_named(role: str, ask: Ask, place: Place) -> None:
    place.network_file(name="another")
    code, found = ask(role, GRAIL_NETWORK=place.settings["GRAIL_NETWORK"])
    assert code == 3
    assert found["checkpoint"]["state"] == "broken"
    assert "another network" in found["checkpoint"]["detail"]
    assert "GRAIL_NETWORK" in found["checkpoint"]["detail"]


def test_a_settings_file_that_does_not_parse_hides_nothing_else(ask: Ask, place: Place) -> None:
    place.write(".env", "NETUID=2\nhello there\n")
    place.write("grail.toml", "[table]\n")
    code, found = ask("trainer", "--offline", GRAIL_DEVICE="cuda:63", BT_WALLET_HOT="nobody", GRAIL_STATE_DIR="/dev/null")
    told = " ".join(one["detail"] for one in found.values() if one["section"] == "settings" and one["state"] == "broken")
    assert ".env, line 2" in told or "line 2" in told
    assert "grail.toml" in told
    assert {found[name]["state"] for name in ("wallet", "state", "device")} >= {"broken"}
    assert "cuda:63" in " ".join(one["detail"] for one in found.values() if one["section"] == "devices")
    assert code == 3


def test_a_bucket_of_another_and_a_permit_that_is_missing_are_told_apart(ask: Ask) -> None:
    code, found = ask("validator", BT_WALLET_HOT="miner-0", GRAIL_STORAGE_BUCKET="bucket-trainer")
    assert code == 5, "the bucket comes before the chain"
    assert found["on chain"]["state"] == "broken"
    assert found["on chain"]["detail"].startswith("another bucket: it names bucket bucket-miner-0")
    assert found["permit"]["state"] == "broken"
    assert found["permit"]["exit_code"] == 4
    assert "grail devnet fund" in found["permit"]["hint"]


def test_a_role_that_starts_is_told_all_that_keeps_it_in_one_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from grail_core.errors import ConfigurationError
    from grail_core.examination.deployment import require_start
    from grail_core.examination.known import VALIDATOR
    from grail_core.participant.settings import load_settings

    place.of("nobody")
    place.settings |= {"NETUID": "82", "GRAIL_STORAGE_ROOT": "/no/buckets", "GRAIL_DEVICE": "cuda:63"}
    for name, value in place.settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="4 things keep") as caught:
        require_start(load_settings(), VALIDATOR)
    lines = [line.strip().partition(":")[0] for line in caught.value.what.splitlines()[1:] if line[2] != " "]
    assert lines == ["wallet", "bucket", "chain", "devices"]


def test_a_relay_that_is_dead_is_a_warning_beside_one_that_serves_and_a_fault_alone(ask: Ask, relay: str) -> None:
    code, found = ask("trainer", GRAIL_BEACON_URLS=f"{relay},http://127.0.0.1:9")
    assert (code, found["beacon"]["state"], found["http://127.0.0.1:9"]["state"]) == (0, "ok", "warning")
    code, found = ask("trainer", GRAIL_BEACON_URLS="http://127.0.0.1:9", GRAIL_CACHE_DIR="without-rounds")
    assert (code, found["beacon"]["state"]) == (9, "broken")


def test_a_chain_of_another_netuid_than_the_networks_is_named_whether_it_is_set_or_not(ask: Ask, place: Place) -> None:
    place.network_file(netuid=3)
    code, found = ask("trainer", GRAIL_NETWORK=place.settings["GRAIL_NETWORK"])
    assert (code, found["netuid"]["section"]) == (3, "chain")
    assert f"chain is of netuid {place.network.params.netuid}" in found["netuid"]["detail"]
    assert "BT_CHAIN_ENDPOINT=" in found["netuid"]["detail"]
    code, found = ask("trainer", NETUID="3")  # set for the file, so the number is the chain's own
    assert (code, found["netuid"]["section"]) == (3, "chain")
    assert "BT_CHAIN_ENDPOINT=" in found["netuid"]["detail"]
    code, found = ask("trainer", NETUID=str(place.network.params.netuid))
    assert (code, found["netuid"]["section"]) == (3, "network")


def test_parameters_whose_trainer_the_chain_does_not_know_end_a_start_and_are_told_by_a_doctor(ask: Ask, place: Place) -> None:
    from grail_core.errors import ConfigurationError
    from grail_core.examination.checkpoint import require_this_network
    from grail_core.participant.participant import Participant
    from grail_core.participant.settings import load_settings

    place.network_file(trainer_hotkey="07" * 32)
    code, found = ask("validator", GRAIL_NETWORK=place.settings["GRAIL_NETWORK"])
    assert code == 3
    assert found["checkpoint"]["state"] == "broken"
    digest = found["parameters"]["detail"].partition("digest ")[2][:12]
    with pytest.raises(ConfigurationError, match="is not registered on this subnet") as caught:
        require_this_network(Participant.from_settings(load_settings()))
    assert caught.value.where == "GRAIL_NETWORK"
    assert "of the same name" in caught.value.hint or "even one of the same name" in caught.value.hint
    assert digest in caught.value.what
    assert caught.value.what in found["checkpoint"]["detail"]


def test_what_is_left_to_fill_in_is_told_as_that(ask: Ask, place: Place) -> None:
    place.write(".env", "R2_ACCOUNT_ID=…\nR2_READ_SECRET_ACCESS_KEY=...\n")
    code, found = ask("validator")
    assert code == 3
    for name in ("R2_ACCOUNT_ID", "R2_READ_SECRET_ACCESS_KEY"):
        assert "filled in" in found[name]["detail"]
        assert found[name]["state"] == "broken"


@pytest.mark.parametrize(
    ("ahead_ms", "state"),
    [(0, "ok"), (-20_000, "ok"), (60_000, "BROKEN"), (-3_600_000, "warning")],
    ids=lambda value: str(value),
)
def test_a_clock_is_held_against_the_newest_block(ahead_ms: int, state: str) -> None:
    from grail_core.clock import wall_clock_ms
    from grail_core.examination.chain import clock
    from grail_core.examination.known import Known
    from grail_core.participant.settings import load_settings

    found = clock(load_settings(bt_network="finney"), Known(), wall_clock_ms() + ahead_ms)
    assert found.state.value == state
    assert ("NTP" in found.hint) == (state != "ok")


def test_a_layer_that_the_sandbox_lacks_is_a_fault_where_answers_are_run(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grail_core.examination.findings import State
    from grail_core.examination.known import Known
    from grail_envs import sandbox as pools
    from grail_envs.examination import sandbox

    monkeypatch.setattr(pools, "GraderPool", partial(pools.GraderPool, layers=("seccomp",)))
    (elsewhere,) = sandbox(Known(manifest=network.manifest))
    assert elsewhere.state is State.WARNING
    for environment in ("mbpp", "math", "affine_trace", "triton_kernel", "verifiers"):
        (here,) = sandbox(Known(manifest=working_on(network, environment)))
        assert (here.state, here.error and here.error.exit_code) == (State.BROKEN, 7)
        assert "landlock" in here.detail


def test_an_environment_without_its_data_is_a_fault_of_the_doctor_and_of_a_start(network: Network, tmp_path: Path) -> None:
    from grail_core.errors import EnvironmentUnavailableError
    from grail_core.participant.settings import load_settings
    from grail_envs.examination import require_work

    with pytest.raises(EnvironmentUnavailableError, match="gsm8k"):
        require_work(load_settings(data_dir=tmp_path), working_on(network, "gsm8k"))
    require_work(load_settings(), network.manifest)


def working_on(network: Network, environment: str) -> CheckpointManifest:
    """The network's checkpoint as one of another environment would look."""
    spec = dataclasses.replace(network.manifest.environment, env_id=environment, parameters={})
    return dataclasses.replace(network.manifest, environment=spec)
