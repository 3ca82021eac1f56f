"""Hotkeys load from bittensor's own wallet layout, and every bad wallet says what is wrong with it."""

from __future__ import annotations

import pickle
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import bittensor_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError
from grail_core.keys import LocalSigner, LockedHotkeyError, from_ss58, load_hotkey, ss58, write_wallet
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
    write_wallet(tmp_path, "cold", "other", coldkey_seed=COLD, hotkey_seed=HOT)
    with pytest.raises(ConfigurationError, match="no such hotkey") as caught:
        load_hotkey(tmp_path, "cold", "hot")
    assert caught.value.where == str(tmp_path / "cold" / "hotkeys" / "hot")
    assert "hotkeys here: other" in caught.value.hint
    command = "btcli wallet new-hotkey --wallet cold --wallet-hotkey hot"
    assert command in caught.value.hint
    btcli, *options = command.split()
    ran = subprocess.run(
        [Path(sys.executable).with_name(btcli), *options, "--help"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_a_missing_wallet_is_told_from_a_missing_hotkey_with_the_wallets_that_are_there(tmp_path: Path) -> None:
    write_wallet(tmp_path, "mine", "hot", coldkey_seed=COLD, hotkey_seed=HOT)
    with pytest.raises(ConfigurationError, match="no such wallet") as caught:
        load_hotkey(tmp_path, "mien", "hot")
    assert "wallets here: mine" in caught.value.hint
    with pytest.raises(ConfigurationError, match="no such wallet"):
        load_hotkey(tmp_path / "nowhere", "mine", "hot")


SECRET = "ab" * 31  # one byte short: a message that repeats it would leak most of a seed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"not a key",
        b'{"secretSeed":"0x00"}',
        b'{"secretSeed":"0x' + SECRET.encode() + b'"}',
        b'{"secretPhrase":"' + SECRET.encode() + b'"}',
        SECRET.encode(),
        b"\xff\xfe",
        b"{" * 100_000,
        b"$NACL",
        b"$ANSIBLE_VAULT;1.1",
    ],
)
def test_a_damaged_keyfile_is_named_and_never_to_be_replaced_by_a_new_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c" / "hotkeys" / "h"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_hotkey(tmp_path, "c", "h")
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert "new-hotkey" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_was_cut_short_is_damaged(tmp_path: Path) -> None:
    write_wallet(tmp_path, "c", "h", coldkey_seed=COLD, hotkey_seed=HOT)
    path = tmp_path / "c" / "hotkeys" / "h"
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(ConfigurationError, match="damaged") as caught:
        load_hotkey(tmp_path, "c", "h")
    assert "regen-hotkey" in caught.value.hint
    assert HOT.hex() not in str(caught.value)


def test_a_file_with_the_public_half_only_cannot_sign_and_says_so(tmp_path: Path) -> None:
    write_wallet(tmp_path, "c", "h", coldkey_seed=COLD, hotkey_seed=HOT)
    with pytest.raises(ConfigurationError, match="only the public part") as caught:
        load_hotkey(tmp_path, "c", "hpub.txt")
    assert "new-hotkey" not in caught.value.hint


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c" / "hotkeys" / "h"
    path.parent.mkdir(parents=True)
    other = bittensor_core.Keypair.from_seed(HOT, crypto_type=bittensor_core.CRYPTO_ED25519)
    path.write_bytes(bytes(bittensor_core.serialized_keypair_to_keyfile_data(other)))
    with pytest.raises(ConfigurationError, match="not an sr25519 key") as caught:
        load_hotkey(tmp_path, "c", "h")
    assert "new-hotkey" not in caught.value.hint


PASSWORD = "secret words"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: deriving a key of a password takes a second, on purpose."""
    folder = tmp_path_factory.mktemp("encrypted")
    write_wallet(folder, "c", "h", coldkey_seed=COLD, hotkey_seed=HOT)
    path = folder / "c" / "hotkeys" / "h"
    path.write_bytes(bytes(bittensor_core.encrypt_keyfile_data(path.read_bytes(), PASSWORD)))
    return folder


def variable_of(wallets: Path) -> str:
    """What the error asks for."""
    with pytest.raises(LockedHotkeyError, match="is encrypted") as caught:
        load_hotkey(wallets, "c", "h")
    found = re.search(r"the environment variable (\S+);", caught.value.hint)
    assert found is not None
    return found[1]


def test_an_encrypted_hotkey_takes_its_password_from_the_variable_that_the_error_names(
    encrypted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = variable_of(encrypted)
    monkeypatch.setenv(variable, PASSWORD)
    assert load_hotkey(encrypted, "c", "h").hotkey == LocalSigner.from_seed(HOT).hotkey


def test_a_variable_that_no_shell_can_set_is_named_with_a_way_that_can(encrypted: Path, tmp_path: Path) -> None:
    hyphen = tmp_path / "with-hyphen"
    shutil.copytree(encrypted, hyphen)
    with tempfile.TemporaryDirectory(prefix="grail") as plain:  # pytest's own folders have a hyphen
        shutil.copytree(encrypted, plain, dirs_exist_ok=True)
        with pytest.raises(LockedHotkeyError) as settable:
            load_hotkey(plain, "c", "h")
    with pytest.raises(LockedHotkeyError) as caught:
        load_hotkey(hyphen, "c", "h")
    for error in (settable, caught):
        assert "from the environment alone, not from .env" in error.value.hint
    assert "env '" not in settable.value.hint
    command = caught.value.hint.partition("to the command: ")[2].replace("=…", f"={PASSWORD}").replace("grail-miner run", "env")
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert f"{variable_of(hyphen)}={PASSWORD}" in ran.stdout.splitlines()


def test_a_password_as_bittensor_keeps_it_is_taken_too(encrypted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = variable_of(encrypted)
    monkeypatch.setenv(variable, "")  # so that what bittensor sets is taken back
    bittensor_core.save_password_to_environment(variable, PASSWORD)
    assert load_hotkey(encrypted, "c", "h").hotkey == LocalSigner.from_seed(HOT).hotkey


def test_a_wrong_password_is_told_without_it(encrypted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, wrong = variable_of(encrypted), "mistaken"
    monkeypatch.setenv(variable, wrong)
    with pytest.raises(ConfigurationError, match="cannot be decrypted") as caught:
        load_hotkey(encrypted, "c", "h")
    assert variable in caught.value.hint
    assert wrong not in str(caught.value).replace(variable, "")


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
