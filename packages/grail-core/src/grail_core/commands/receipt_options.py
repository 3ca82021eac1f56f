"""What a receipt is held against, as `grail verify` and `grail ask` are told it: options, and the checks they ask for."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from grail_core.commands.receipt_models import Folders
    from grail_core.proof.reader_table import ReaderTable
    from grail_core.protocol.network import NetworkParameters
    from grail_core.verification.receipt import ReceiptReport

_REQUIREMENTS = ("order", "coordinator", "calibrated")


class Positions(click.ParamType[int]):
    name = "N|all"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if text == "all":
            return 0
        if not text.isascii() or not text.isdigit() or not 2 <= int(text) <= 100_000:
            self.fail(f"{text!r} is neither a number from 2 on nor all", param, ctx)
        return int(text)


class _Required(click.ParamType[tuple[str, ...]]):
    name = "LIST"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(name.strip() for name in str(value).split(",") if name.strip()))
        for name in names:
            if name not in _REQUIREMENTS:
                self.fail(f"{name!r} is none of {', '.join(_REQUIREMENTS)}", param, ctx)
        return names


class _Genesis(click.ParamType[bytes]):
    """The hash of a chain's first block, 32 bytes."""

    name = "HEX"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        text = str(value).removeprefix("0x")
        try:
            found = bytes.fromhex(text)
        except ValueError:
            found = b""
        if len(found) != 32:
            self.fail(f"{text!r:.80} is not 64 hex digits", param, ctx)
        return found


class _Key(click.ParamType[bytes]):
    """A hotkey as 32 bytes."""

    name = "HOTKEY"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        from grail_core.errors import ConfigurationError
        from grail_core.keys import from_ss58

        if isinstance(value, bytes):
            return value
        text = str(value)
        try:
            return bytes.fromhex(text) if len(text) == 64 else from_ss58(text)
        except (ConfigurationError, ValueError):
            self.fail(f"{text[:80]!r} is no hotkey: an SS58 address, or 64 hex digits", param, ctx)


class _Owner(_Key):
    """An account as 32 bytes: a hotkey, or an address of 20 bytes after twelve zeros."""

    name = "KEY"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if not isinstance(value, str) or not value.startswith("0x"):
            return super().convert(value, param, ctx)
        digits = value[2:]
        try:
            raw = bytes.fromhex(digits) if len(digits) == 40 and digits.isalnum() else b""
        except ValueError:
            raw = b""
        if not raw:
            self.fail(f"{value[:80]!r} is no address: 0x and 40 hex digits", param, ctx)
        if digits not in (digits.lower(), digits.upper(), _checksummed(digits.lower())):
            self.fail(f"{value} is mistyped: its capitals are not those of its checksum (EIP-55)", param, ctx)
        from grail_core.inference.signatures import account_of

        return account_of(raw)


def _checksummed(digits: str) -> str:
    """An address with the capitals of EIP-55."""
    from grail_core.inference.keccak import keccak256

    hashed = keccak256(digits.encode()).hex()
    return "".join(letter.upper() if int(nibble, 16) >= 8 else letter for letter, nibble in zip(digits, hashed, strict=False))


require_option = click.option(
    "--require",
    type=_Required(),
    default=(),
    help="What must be there beyond the checks, separated by commas: order (signed by its owner), coordinator, calibrated.",
)
genesis_option = click.option(
    "--genesis",
    type=_Genesis(),
    help="Of a node on a chain: the hash of its first block, which every draw hangs on (`/info` of nodes, any explorer).",
)
key_option = click.option("--key", type=_Key(), help="The node whose answer it must be: its hotkey, known from elsewhere.")
owner_option = click.option(
    "--owner",
    type=_Owner(),
    help="Who must have signed the order: a hotkey (SS58, or 64 hex digits) or an address (0x…), known from elsewhere.",
)
table_option = click.option(
    "--table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A table of bounds that you trust, beside the release's: of this model, as `grail receipts calibrate` makes it.",
)


@dataclass(frozen=True)
class Wanted:
    """What receipts are held against. `positions`: None for all."""

    folder: Path | None = None
    network: str | None = None
    genesis: bytes | None = None
    require: tuple[str, ...] = ()
    key: bytes | None = None
    owner: bytes | None = None
    table: Path | None = None
    positions: int | None = 256
    device: str = "cpu"

    def read(self) -> None:
        """The files among them, before anything is asked or checked. Raises ConfigurationError."""
        _ = self._network, self._folders

    def check(self, raw: bytes) -> ReceiptReport:
        """Raises: as `Folders.of`."""
        from grail_core.protocol.types import Hotkey
        from grail_core.verification.receipt import check_receipt

        return check_receipt(
            raw,
            seed=os.urandom(32),
            network=self._network,
            genesis=self.genesis,
            model=self._folders.of(raw),
            positions=self.positions,
            require=self.require,
            node=None if self.key is None else Hotkey(self.key),
            owner=self.owner,
        )

    @cached_property
    def _network(self) -> NetworkParameters | None:
        from grail_core.participant.deployment import parameters_named

        return None if self.network is None else parameters_named(self.network, where="--network")

    @cached_property
    def _folders(self) -> Folders:
        from grail_core.commands.receipt_models import Folders

        return Folders(self.folder, self.device, None if self.table is None else read_reader_table(self.table))


def read_reader_table(path: Path) -> ReaderTable:
    """Raises ConfigurationError: no regular file, or none of a table."""
    from grail_core.errors import ConfigurationError
    from grail_core.proof.calibration import MAX_TABLE_BYTES
    from grail_core.proof.reader_table import ReaderTable

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            raw = file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        hint = "make one of your model: grail receipts calibrate"
        raise ConfigurationError(f"the table cannot be read: {error.strerror}", where=f"--table {path}", hint=hint) from error
    return ReaderTable.from_bytes(raw, name=str(path))
