"""Hotkeys load from bittensor's own wallet layout, and every bad wallet says what is wrong with it."""

from __future__ import annotations

import pickle
import stat
from pathlib import Path

import bittensor_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError
from grail_core.keys import LocalSigner, from_ss58, load_hotkey, ss58, write_wallet
from grail_core.protocol.types import Hotkey

COLD, HOT = bytes([1]) * 32, bytes([2]) * 32


def test_a_written_wallet_loads_as_the_same_hotkey_and_signs(tmp_path: Path) -> None:
    written = write_wallet(tmp_path, "miner", "default", coldkey_seed=COLD, hotkey_seed=HOT)
    loaded = load_hotkey(tmp_path, "miner", "default")
    assert loaded.hotkey == written.hotkey == LocalSigner.from_seed(HOT).hotkey
    assert bittensor_core.verify(b"text", loaded.sign(b"text"), loaded.ss58)
    assert not bittensor_core.verify(b"other", loaded.sign(b"text"), loaded.ss58)


def test_the_bittensor_sdk_reads_the_wallet_we_write_and_we_read_the_one_it_writes(tmp_path: Path) -> None:
    wallet_module = pytest.importorskip("bittensor.wallet")
    ours = write_wallet(tmp_path, "ours", "hot", coldkey_seed=COLD, hotkey_seed=HOT)
    theirs = wallet_module.Wallet(name="ours", hotkey="hot", path=str(tmp_path))
    assert theirs.hotkey.ss58_address == ours.ss58
    assert theirs.hotkeypub.ss58_address == ours.ss58
    assert theirs.coldkey.ss58_address == theirs.coldkeypub.ss58_address == LocalSigner.from_seed(COLD).ss58
    made = wallet_module.Wallet(name="theirs", hotkey="hot", path=str(tmp_path))
    made.create_new_hotkey(use_password=False, suppress=True)
    assert load_hotkey(tmp_path, "theirs", "hot").ss58 == made.hotkey.ss58_address


def test_key_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    write_wallet(tmp_path, "miner", "default", coldkey_seed=COLD, hotkey_seed=HOT)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_writing_again_keeps_the_keys_and_never_overwrites_others(tmp_path: Path) -> None:
    write_wallet(tmp_path, "w", "h", coldkey_seed=COLD, hotkey_seed=HOT)
    write_wallet(tmp_path, "w", "h", coldkey_seed=COLD, hotkey_seed=HOT)
    with pytest.raises(ConfigurationError, match="never overwritten"):
        write_wallet(tmp_path, "w", "h", coldkey_seed=COLD, hotkey_seed=bytes([3]) * 32)
    assert load_hotkey(tmp_path, "w", "h").hotkey == LocalSigner.from_seed(HOT).hotkey


def test_a_missing_hotkey_names_the_file_and_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_hotkey(tmp_path, "cold", "hot")
    assert caught.value.where == str(tmp_path / "cold" / "hotkeys" / "hot")
    assert "btcli wallet new_hotkey --wallet.name cold --wallet.hotkey hot" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{}", b"not a key", b'{"secretSeed":"0x00"}', b"\xff\xfe", b"{" * 100_000])
def test_a_damaged_keyfile_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c" / "hotkeys" / "h"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_hotkey(tmp_path, "c", "h")
    assert caught.value.where == str(path)


def test_a_file_with_the_public_half_only_cannot_sign_and_says_so(tmp_path: Path) -> None:
    write_wallet(tmp_path, "c", "h", coldkey_seed=COLD, hotkey_seed=HOT)
    with pytest.raises(ConfigurationError, match="no usable key"):
        load_hotkey(tmp_path, "c", "hpub.txt")


def test_an_encrypted_hotkey_takes_its_password_from_bittensors_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wallet(tmp_path, "c", "h", coldkey_seed=COLD, hotkey_seed=HOT)
    path = tmp_path / "c" / "hotkeys" / "h"
    path.write_bytes(bytes(bittensor_core.encrypt_keyfile_data(path.read_bytes(), "secret words")))
    with pytest.raises(ConfigurationError, match="encrypted") as caught:
        load_hotkey(tmp_path, "c", "h")
    variable = caught.value.hint.split()[-1]
    bittensor_core.save_password_to_environment(variable, "wrong")
    with pytest.raises(ConfigurationError, match="decrypted"):
        load_hotkey(tmp_path, "c", "h")
    bittensor_core.save_password_to_environment(variable, "secret words")
    assert load_hotkey(tmp_path, "c", "h").hotkey == LocalSigner.from_seed(HOT).hotkey
    monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "a\0b", "x" * 65])
def test_names_that_leave_the_wallet_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        load_hotkey(tmp_path, name, "h")
    with pytest.raises(ConfigurationError):
        load_hotkey(tmp_path, "c", name)


def test_a_signer_shows_no_secret_and_does_not_leave_its_process() -> None:
    signer = LocalSigner.from_seed(HOT)
    assert repr(signer) == f"LocalSigner({signer.ss58})"
    with pytest.raises(TypeError):
        pickle.dumps(signer)
    with pytest.raises(ValueError, match="32 bytes"):
        LocalSigner.from_seed(b"short")


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32))
def test_addresses_round_trip(raw: bytes) -> None:
    assert from_ss58(ss58(Hotkey(raw))) == raw


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        from_ss58(text)


def test_an_address_of_another_network_format_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        from_ss58(bittensor_core.ss58_encode(bytes(32), 0))
