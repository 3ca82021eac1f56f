"""Hotkeys: loading them from a wallet, signing with them, and their SS58 text.

A hotkey is 32 bytes everywhere inside; SS58 exists only at the edges, and this is that edge. Wallets have bittensor's
on-disk layout (`<path>/<cold>/hotkeys/<hot>`), read and written with `bittensor_core` alone, so that a machine without the
bittensor SDK can sign. Nothing here prompts: an encrypted hotkey takes its password from the variable bittensor uses.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import bittensor_core
from bittensor_core import Keypair

from grail_core.disk import write_atomically
from grail_core.errors import ConfigurationError
from grail_core.protocol.types import Hotkey, Signature

SS58_FORMAT = 42  # the generic Substrate format that bittensor uses
_MAX_KEYFILE_BYTES = 64 * 1024  # bytes; a keyfile has a few hundred
_MOST_NAMES = 8
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


class LockedHotkeyError(ConfigurationError):
    """The hotkey is encrypted, and its password is not given."""


class LocalSigner:
    """A hotkey whose secret is in this process. Its representation shows the address only."""

    def __init__(self, keypair: Keypair) -> None:
        self._keypair = keypair
        self._hotkey = Hotkey(bytes(keypair.public_key))

    @classmethod
    def from_seed(cls, seed: bytes) -> LocalSigner:
        """The sr25519 key of a 32-byte seed.

        Raises:
            ValueError: the seed has not 32 bytes.
        """
        if len(seed) != 32:
            raise ValueError(f"a key seed has 32 bytes, not {len(seed)}")
        return cls(Keypair.from_seed(bytes(seed)))

    @property
    def hotkey(self) -> Hotkey:
        return self._hotkey

    @property
    def ss58(self) -> str:
        return ss58(self._hotkey)

    def sign(self, message: bytes) -> Signature:
        """sr25519 over `message`; randomised, so that two signatures of one message differ."""
        return Signature(bytes(self._keypair.sign(bytes(message))))

    def __repr__(self) -> str:
        return f"LocalSigner({self.ss58})"

    def __reduce__(self) -> str:
        raise TypeError("a signer does not leave its process: sign where the wallet is")


def ss58(hotkey: Hotkey) -> str:
    """The address text of a public key."""
    if len(hotkey) != 32:
        raise ValueError(f"a hotkey has 32 bytes, not {len(hotkey)}")
    return str(bittensor_core.ss58_encode(bytes(hotkey), SS58_FORMAT))


def from_ss58(text: str) -> Hotkey:
    """The public key of an address.

    Raises:
        ConfigurationError: not an SS58 address of 32 bytes in bittensor's format.
    """
    try:
        raw = bytes(bittensor_core.ss58_decode(text))
    except ValueError as error:
        raise ConfigurationError(f"not an SS58 address: {error}", where=repr(text[:80])) from error
    hotkey = Hotkey(raw)
    if len(raw) != 32 or ss58(hotkey) != text:
        raise ConfigurationError("not an SS58 address of this network", where=repr(text[:80]), hint="addresses start with 5")
    return hotkey


def hotkey_file(wallet_path: str | os.PathLike[str], coldkey_name: str, hotkey_name: str) -> Path:
    """Where bittensor keeps a hotkey; `ConfigurationError` for a name that is no plain file name."""
    for setting, name in (("BT_WALLET_COLD", coldkey_name), ("BT_WALLET_HOT", hotkey_name)):
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                "a wallet or hotkey name has letters, digits, '.', '_' and '-' only",
                where=f"{setting}={name!r}",
                hint=f"set {setting} to the name alone, and BT_WALLET_PATH to the folder of wallets",
            )
    return Path(wallet_path).expanduser() / coldkey_name / "hotkeys" / hotkey_name


def load_hotkey(wallet_path: str | os.PathLike[str], coldkey_name: str, hotkey_name: str) -> LocalSigner:
    """The signer of `<wallet_path>/<coldkey_name>/hotkeys/<hotkey_name>`.

    No error holds any of the file's content, and none about a file that is there suggests to put a new key in its place: what
    is registered and paid is the old one.

    Raises:
        ConfigurationError: no such wallet or hotkey, unreadable, encrypted without its password at hand or with another,
            damaged, the public part alone, or a key of another kind.
    """
    path = hotkey_file(wallet_path, coldkey_name, hotkey_name)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEYFILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(path, coldkey_name, hotkey_name) from error
    except OSError as error:
        raise ConfigurationError(
            f"the hotkey file cannot be read: {error.strerror}", where=str(path), hint="give this user the right to read it"
        ) from error
    if len(data) > _MAX_KEYFILE_BYTES:
        raise ConfigurationError("this is no keyfile: it is too large", where=str(path), hint=_BACKUP)
    if bittensor_core.keyfile_data_is_encrypted(data):
        data = _decrypt(path, data)
    try:
        keypair = bittensor_core.deserialize_keypair_from_keyfile_data(data)
    except (ValueError, bittensor_core.KeyfileError) as error:
        raise ConfigurationError("the hotkey file is damaged: it holds no key", where=str(path), hint=_BACKUP) from error
    try:
        keypair.sign(b"probe")
    except ValueError as error:
        raise ConfigurationError(
            "the file holds no usable key: only the public part of one, which cannot sign",
            where=str(path),
            hint="name the hotkey itself in BT_WALLET_HOT, without pub.txt; if it is kept elsewhere, bring its file here",
        ) from error
    if keypair.crypto_type != bittensor_core.CRYPTO_SR25519:
        raise ConfigurationError(
            "the hotkey is not an sr25519 key, and the protocol has no other signatures",
            where=str(path),
            hint="choose another hotkey with BT_WALLET_HOT",
        )
    return LocalSigner(keypair)


_BACKUP = (
    "bring it back from a backup, or make the same key anew from its mnemonic: btcli wallet regen-hotkey; "
    "a new key would be another participant"
)


def _how_to_unlock(variable: str) -> str:
    """The variable is the last word of the first sentence's part: it is bittensor's own name for it, made of the path."""
    hint = f"put its password into the environment variable {variable}; it is taken from the environment alone, not from .env"
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        return hint
    assignment = shlex.quote(f"{variable}=…")
    return f"{hint}; a shell cannot set this name, so give it to the command: env {assignment} grail-miner run"


def _missing(path: Path, coldkey_name: str, hotkey_name: str) -> ConfigurationError:
    """What is missing, with what there is instead."""
    wallet = path.parent.parent
    create = f"btcli wallet new-hotkey --wallet {coldkey_name} --wallet-hotkey {hotkey_name}"
    if not wallet.is_dir():
        there = _names(wallet.parent, folders=True)
        what, setting, kind = "there is no such wallet", "BT_WALLET_PATH and BT_WALLET_COLD", "wallets"
    else:
        there = _names(path.parent, folders=False)
        what, setting, kind = "there is no such hotkey", "BT_WALLET_PATH, BT_WALLET_COLD and BT_WALLET_HOT", "hotkeys"
    told = f" ({kind} here: {', '.join(there)})" if there else ""
    return ConfigurationError(what, where=str(path), hint=f"set {setting}{told}, or: {create}")


def _names(folder: Path, *, folders: bool) -> list[str]:
    """The first names in a folder, as a person may have misspelt one."""
    try:
        entries = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() == folders)
    except OSError:
        return []
    return [name for name in entries if not name.endswith("pub.txt")][:_MOST_NAMES]


def _decrypt(path: Path, data: bytes) -> bytes:
    """Tried: the variable as bittensor writes it (scrambled), then as a person does (the password itself)."""
    variable = "BT_PW_" + str(path).replace(os.sep, "_").replace(".", "_").upper()
    passwords = []
    try:
        scrambled = bittensor_core.get_password_from_environment(variable)
        passwords = [scrambled] if scrambled else []
    except (ValueError, bittensor_core.KeyfileError):
        pass  # not as bittensor writes it
    plain = os.environ.get(variable)
    passwords += [plain] if plain else []
    if not passwords:
        raise LockedHotkeyError("the hotkey is encrypted", where=str(path), hint=_how_to_unlock(variable))
    for password in passwords:
        try:
            return bytes(bittensor_core.decrypt_keyfile_data(data, password))
        except (ValueError, bittensor_core.KeyfileError, bittensor_core.WrongPasswordError):
            continue
    raise ConfigurationError(
        "the hotkey cannot be decrypted: the password is another, or the file is damaged",
        where=str(path),
        hint=f"check the password in {variable}; a damaged file is brought back from a backup",
    )


def write_wallet(
    wallet_path: str | os.PathLike[str], coldkey_name: str, hotkey_name: str, *, coldkey_seed: bytes, hotkey_seed: bytes
) -> LocalSigner:
    """Write an unencrypted development wallet in bittensor's layout, files readable by their owner only.

    Writing the same keys again changes nothing, so that a network on one machine can resume; other keys under these names
    are never overwritten.

    Raises:
        ConfigurationError: another key is there already, or a name is no plain file name.
        StorageError: the folder cannot be written.
    """
    hot_path = hotkey_file(wallet_path, coldkey_name, hotkey_name)
    cold, hot = LocalSigner.from_seed(coldkey_seed), LocalSigner.from_seed(hotkey_seed)
    folder = hot_path.parent.parent
    for path, keypair in (
        (folder / "coldkey", cold._keypair),
        (folder / "coldkeypub.txt", Keypair(ss58_address=cold.ss58)),
        (hot_path, hot._keypair),
        (hot_path.with_name(hotkey_name + "pub.txt"), Keypair(ss58_address=hot.ss58)),
    ):
        if path.exists():
            _refuse_another_key(path, Hotkey(bytes(keypair.public_key)))
        else:
            write_atomically(path, bytes(bittensor_core.serialized_keypair_to_keyfile_data(keypair)), mode=0o600)
    return hot


def make_hotkey(wallet_path: str | os.PathLike[str], coldkey_name: str, hotkey_name: str) -> bool:
    """Write a random, unencrypted hotkey where there is none, readable by its owner only. Returns whether there was none.

    Raises:
        ConfigurationError: a name is no plain file name.
        StorageError: the folder cannot be written.
    """
    path = hotkey_file(wallet_path, coldkey_name, hotkey_name)
    if path.exists():
        return False
    keypair = Keypair.from_seed(os.urandom(32))
    write_atomically(path, bytes(bittensor_core.serialized_keypair_to_keyfile_data(keypair)), mode=0o600)
    return True


def _refuse_another_key(path: Path, expected: Hotkey) -> None:
    try:
        found = bytes(bittensor_core.deserialize_keypair_from_keyfile_data(path.read_bytes()).public_key)
    except (OSError, ValueError, bittensor_core.KeyfileError):
        found = b""
    if found != expected:
        raise ConfigurationError(
            "another key is stored under this name, and keys are never overwritten",
            where=str(path),
            hint="choose another wallet folder, or remove this one yourself",
        )
