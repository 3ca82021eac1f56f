"""A role that cannot start says everything that keeps it from starting, at once and in the order in which it is mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.commands.grail import cli
from grail_core.errors import GrailError
from grail_core.participant.missing import SeveralMissingError, open_everything
from grail_core.participant.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)


def wrong(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[tuple[str, str]]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    opened = open_everything(load_settings())
    missing = opened.missing
    if not missing:
        assert opened.require_all().signer is opened.signer
        return []
    with pytest.raises(GrailError) as caught:
        opened.require_all()
    assert caught.value.exit_code == missing[0].error.exit_code
    if len(missing) == 1:
        assert caught.value is missing[0].error
    else:
        assert isinstance(caught.value, SeveralMissingError)
        assert all(text in caught.value.what for one in missing for text in (one.error.what, one.error.hint))
    return [(one.part, one.error.where) for one in missing]


def test_with_defaults_network_wallet_and_bucket_are_missing_and_a_network_of_ones_own_is_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [part for part, _ in wrong(monkeypatch)] == ["network", "wallet", "bucket"]
    hint = open_everything(load_settings()).missing[0].error.hint
    assert "grail devnet init" in hint
    assert "hatch run localnet" in hint


def test_each_part_is_tried_whatever_became_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = wrong(
        monkeypatch,
        GRAIL_CALIBRATION="nothing.json",
        GRAIL_NETWORK="atlantis",
        GRAIL_STORAGE_ROOT="nowhere",
        BT_NETWORK="local",
        BT_CHAIN_ENDPOINT="nothing.sqlite",
    )
    assert [part for part, _ in found] == ["settings", "network", "wallet", "bucket", "chain"]


def test_a_network_file_that_is_not_there_is_named_and_nothing_is_said_of_its_buckets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = wrong(
        monkeypatch,
        GRAIL_NETWORK="/no/net.json",
        GRAIL_STORAGE_ROOT=str(tmp_path),
        GRAIL_STORAGE_BUCKET="mine",
        BT_NETWORK="finney",
    )
    assert found[:2] == [("network", "GRAIL_NETWORK"), ("wallet", found[1][1])]
    assert "bucket" not in [part for part, _ in found]
    error = open_everything(load_settings()).missing[0].error
    assert "/no/net.json" in error.what


def test_what_alone_is_missing_is_its_own_error_and_nothing_is_where_all_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def devnet(*arguments: str) -> str:
        return CliRunner().invoke(cli, ["devnet", *arguments]).stdout

    devnet("init", "net", "--clock", "manual")
    settings = json.loads(devnet("env", "miner-1", "--dir", "net", "--json"))
    assert wrong(monkeypatch, **settings) == []
    assert wrong(monkeypatch, GRAIL_BEACON_URLS=",") == [("network", "GRAIL_BEACON_URLS")]
    assert wrong(monkeypatch, GRAIL_BEACON_URLS=settings["GRAIL_BEACON_URLS"], NETUID="9") == [("chain", "NETUID")]
    # A hotkey that is not registered is asked about beside other things; alone it is the first thing that a start asks.
    (tmp_path / "net/wallets/devnet/hotkeys/stranger").write_bytes(stranger())
    assert wrong(monkeypatch, BT_WALLET_HOT="stranger") == [("chain", "NETUID"), ("chain", "wallet devnet/stranger")]


def stranger() -> bytes:
    import bittensor_core

    return bytes(bittensor_core.serialized_keypair_to_keyfile_data(bittensor_core.Keypair.from_seed(bytes(range(32)))))
