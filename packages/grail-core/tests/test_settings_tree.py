"""Settings come from flags, environment, .env, TOML and defaults, in this order, and say where each came from."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from grail_core.beacon.drand import DrandBeacon
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.errors import ChainError, ConfigurationError, NotRegisteredError
from grail_core.keys import LocalSigner, write_wallet
from grail_core.participant.deployment import (
    load_signer,
    network_clock,
    network_parameters,
    open_beacon,
    open_chain,
    open_directory,
    permit_hint,
    require_registered,
)
from grail_core.participant.missing import SeveralMissingError
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings, load_settings, resolve
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.types import Hotkey


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder without .env or TOML file, and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.delenv("GRAIL_CONFIG", raising=False)


def row(name: str, **flags: object) -> tuple[str, str]:
    rows = {alias: (value, origin) for alias, value, origin in resolve(**flags).rows()}
    return rows[name]


def test_each_source_overrides_the_ones_below_it_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(name: str) -> str:
        return str(Path(name).absolute())

    assert row("GRAIL_LOG_FILE") == ("", "default")
    Path("grail.toml").write_text('GRAIL_LOG_FILE = "toml.log"\nNETUID = 5\n')
    assert row("GRAIL_LOG_FILE") == (here("toml.log"), "grail.toml, line 1")
    Path(".env").write_text("GRAIL_LOG_FILE=dotenv.log\n")
    assert row("GRAIL_LOG_FILE") == (here("dotenv.log"), ".env, line 1")
    monkeypatch.setenv("GRAIL_LOG_FILE", "environment.log")
    assert row("GRAIL_LOG_FILE") == (here("environment.log"), "environment")
    assert row("GRAIL_LOG_FILE", log_file=Path(here("flag.log"))) == (here("flag.log"), "flag")
    assert row("GRAIL_LOG_FILE", log_file=None) == (here("environment.log"), "environment")
    assert row("NETUID") == ("5", "grail.toml, line 2")


def test_another_settings_file_is_named_by_grail_config(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.toml").write_text("NETUID = 7\n")
    monkeypatch.setenv("GRAIL_CONFIG", "other.toml")
    assert row("NETUID") == ("7", "other.toml, line 1")
    monkeypatch.setenv("GRAIL_CONFIG", "none.toml")
    with pytest.raises(ConfigurationError, match="no such settings file"):
        load_settings()


def test_secrets_are_masked_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "do-not-show-me"
    for name in ("R2_READ_SECRET_ACCESS_KEY", "R2_WRITE_SECRET_ACCESS_KEY", "R2_WRITE_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, secret)
    settings = load_settings()
    assert secret not in str(resolve().rows())
    assert secret not in repr(settings)
    assert row("R2_WRITE_SECRET_ACCESS_KEY") == ("***", "environment")
    assert settings.r2_write_secret_access_key.get_secret_value() == secret


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_DATA_DIR", "")
    assert load_settings().data_dir is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("NETUID", "many"), ("NETUID", "-1"), ("GRAIL_PIPELINE_BACKEND", "abacus"), ("GRAIL_MINER_SAFETY_BLOCKS", "21")],
)
def test_a_bad_value_names_its_variable_and_source(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as caught:
        load_settings()
    assert caught.value.where == "environment"


def test_a_settings_file_that_does_not_parse_is_named() -> None:
    Path("grail.toml").write_text("= what\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert caught.value.where == "grail.toml, line 1"


def test_an_unknown_name_is_told_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRAIL_NETWROK", "GRAIL_CACHE_DIR", "GRAIL_ZZZZZZZZZ", "GRAIL_SANDBOX"):
        monkeypatch.setenv(name, "x")
    assert [(one.name, one.nearest) for one in resolve().unknown] == [
        ("GRAIL_NETWROK", "GRAIL_NETWORK"),
        ("GRAIL_ZZZZZZZZZ", None),
    ]


# --- from settings to the outside world --------------------------------------------------------------------------------------

TRAINER = Hotkey(bytes([7]) * 32)
HERE = dataclasses.replace(LOCALNET, trainer_hotkey=TRAINER)


def write_network(params: NetworkParameters) -> str:
    Path("network.json").write_text(json.dumps(params.to_json()))
    return "network.json"


def test_a_network_is_named_or_read_from_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_NETWORK", write_network(HERE))
    assert network_parameters(load_settings()) == HERE
    for name, message in (("atlantis", "no network of this name"), ("localnet", "trainer")):
        monkeypatch.setenv("GRAIL_NETWORK", name)
        with pytest.raises(ConfigurationError, match=message):
            network_parameters(load_settings())
    for content in ("", "{}", "[" * 2000, json.dumps({**HERE.to_json(), "netuid": "81"}), " " * 100_000):
        Path("network.json").write_text(content)
        monkeypatch.setenv("GRAIL_NETWORK", "network.json")
        with pytest.raises(ConfigurationError, match="does not parse"):
            network_parameters(load_settings())


@pytest.mark.parametrize("missing", ["proof_classes", "generation_classes", "validator_classes", "uncalibrated"])
def test_a_network_file_of_before_the_numerics_classes_is_refused_with_what_it_lacks(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {name: value for name, value in HERE.to_json().items() if name != missing}
    Path("network.json").write_text(json.dumps(old))
    monkeypatch.setenv("GRAIL_NETWORK", "network.json")
    with pytest.raises(ConfigurationError, match=rf"no member '{missing}'") as caught:
        network_parameters(load_settings())
    assert caught.value.where == "network.json"


@pytest.mark.parametrize(("said", "named"), [("9", 9), ("81", None), (None, None)])
def test_a_netuid_that_is_said_is_the_networks_also_on_a_development_chain(
    said: str | None, named: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    LocalChain.create("chain.sqlite", seed=1, netuid=81)
    params = dataclasses.replace(LOCALNET, trainer_hotkey=Hotkey(b"\1" * 32), netuid=81)
    Path("network.json").write_text(json.dumps(params.to_json()))
    for name, value in (("BT_NETWORK", "local"), ("BT_CHAIN_ENDPOINT", "chain.sqlite"), ("GRAIL_NETWORK", "network.json")):
        monkeypatch.setenv(name, value)
    if said is not None:
        monkeypatch.setenv("NETUID", said)
    with pytest.raises(SeveralMissingError) as stopped:  # nothing else is set up here, so something is missing in any case
        Participant.from_settings(load_settings())
    told = [one.error.what for one in stopped.value.missing if one.error.where == "NETUID"]
    assert len(told) == (named is not None)
    assert all(f"asked for netuid {named}" in what for what in told)


def test_a_local_network_opens_with_one_clock_for_chain_store_and_beacon(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = LocalChain.create("chain.sqlite", seed=1, clock=ClockMode.VIRTUAL, genesis_time_ms=1_000_000)
    monkeypatch.setenv("BT_NETWORK", "local")
    monkeypatch.setenv("BT_CHAIN_ENDPOINT", "chain.sqlite")
    monkeypatch.setenv("GRAIL_STORAGE_ROOT", ".")
    monkeypatch.setenv("GRAIL_STORAGE_BUCKET", "alice")
    settings = load_settings()
    assert open_chain(settings).genesis_hash == chain.genesis_hash
    assert open_directory(settings, HERE, chain).own().put("x", b"").stored_at_ms == network_clock(settings)() == 1_000_000
    assert isinstance(open_beacon(settings, HERE), DrandBeacon)


def test_what_is_missing_for_a_local_network_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = LocalChain.create("chain.sqlite", seed=1, clock=ClockMode.VIRTUAL)
    monkeypatch.setenv("BT_NETWORK", "local")
    with pytest.raises(ConfigurationError) as caught:
        open_chain(load_settings())
    assert caught.value.where == "BT_CHAIN_ENDPOINT"
    monkeypatch.setenv("BT_CHAIN_ENDPOINT", "nothing.sqlite")
    with pytest.raises(ChainError, match="no development chain"):
        open_chain(load_settings())
    monkeypatch.setenv("GRAIL_STORAGE_ROOT", "nowhere")
    with pytest.raises(ConfigurationError) as caught:
        open_directory(load_settings(), HERE, chain)
    assert "GRAIL_STORAGE_ROOT" in caught.value.hint
    monkeypatch.setenv("GRAIL_BEACON_URLS", " , ")
    with pytest.raises(ConfigurationError) as caught:
        open_beacon(load_settings(), HERE)
    assert caught.value.where == "GRAIL_BEACON_URLS"


def test_an_unregistered_hotkey_gets_the_line_that_registers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = LocalChain.create("chain.sqlite", seed=1, clock=ClockMode.VIRTUAL)
    write_wallet("wallets", "cold", "hot", coldkey_seed=bytes(32), hotkey_seed=bytes([1]) * 32)
    for name, value in {"PATH": "wallets", "COLD": "cold", "HOT": "hot"}.items():
        monkeypatch.setenv(f"BT_WALLET_{name}", value)
    monkeypatch.setenv("BT_NETWORK", "local")
    settings = load_settings()
    signer = load_signer(settings)
    assert signer.hotkey == LocalSigner.from_seed(bytes([1]) * 32).hotkey
    with pytest.raises(NotRegisteredError) as caught:
        require_registered(chain, signer, settings)
    assert caught.value.hint.endswith("grail devnet add ROLE hot --dir .")
    with pytest.raises(NotRegisteredError) as caught:
        require_registered(chain, signer, settings.model_copy(update={"bt_network": "test", "bt_chain_endpoint": ""}))
    where = f"--wallet cold --wallet-hotkey hot --wallet-path {settings.wallet_path}"
    assert caught.value.hint == f"btcli subnets register --netuid 81 {where} --network test"
    assert signer.ss58 in caught.value.what
    btcli, *options = shlex.split(caught.value.hint)
    taken = subprocess.run([Path(sys.executable).with_name(btcli), *options, "--help"], capture_output=True, text=True)
    assert taken.returncode == 0, taken.stderr  # an option that this version does not have is refused before any help
    own = {"bt_network": "custom", "bt_chain_endpoint": "wss://me:hidden@node:99/ws?key=hidden,wss://other"}
    with pytest.raises(NotRegisteredError) as caught:
        require_registered(chain, signer, settings.model_copy(update=own))
    assert caught.value.hint.endswith("--network wss://node:99")
    chain.register(signer)
    chain.advance(2)
    assert require_registered(chain, signer, settings).uid == 0


def test_who_has_no_permit_is_told_what_the_chain_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_WALLET_HOT", "hot")
    assert "btcli subnets hyperparameters 81" in permit_hint(load_settings(), 81)
    monkeypatch.setenv("BT_NETWORK", "local")
    monkeypatch.setenv("BT_CHAIN_ENDPOINT", "/net/chain.sqlite")
    assert "from 1 TAO on: grail devnet fund hot --dir /net" in permit_hint(load_settings(), 81)
