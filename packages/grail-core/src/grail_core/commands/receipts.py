"""`grail verify`: a receipt checked offline, by whoever holds it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import verbose_option
from grail_core.errors import ReceiptInconclusiveError, ReceiptRejectedError, ReceiptUnprovenError

if TYPE_CHECKING:
    from grail_core.protocol.network import NetworkParameters
    from grail_core.verification.receipt import ReceiptReport

_REQUIREMENTS = ("order", "coordinator", "calibrated")


class _Positions(click.ParamType[int]):
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


class Key(click.ParamType[bytes]):
    """A node's hotkey as 32 bytes."""

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


require_option = click.option(
    "--require",
    type=_Required(),
    default=(),
    help="What must be there beyond the checks, separated by commas: order (signed by its owner), coordinator, calibrated.",
)
key_option = click.option("--key", type=Key(), help="The node whose answer it must be: its hotkey, known from elsewhere.")


@dataclass(frozen=True)
class Named:
    """A receipt's report under the name that it was given by."""

    name: str
    report: ReceiptReport


@click.command()
@click.argument("files", metavar="RECEIPT...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The model's folder (default: a folder of the hub's cache with the receipt's configuration, if there is one).",
)
@click.option("--network", help="Whose receipts they must be: a named network, or a JSON file of network parameters.")
@require_option
@key_option
@click.option(
    "--positions",
    type=_Positions(),
    default="256",
    show_default=True,
    help="Tokens of a completion whose draws are looked at; which ones is drawn anew each time.",
)
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@verbose_option
def verify(
    files: tuple[Path, ...],
    folder: Path | None,
    network: str | None,
    require: tuple[str, ...],
    key: bytes | None,
    positions: int,
    device: str,
    as_json: bool,
) -> None:
    """Check receipts of inference offline: who signed what, and that this model drew exactly these tokens.

    Needs no network, no chain and no wallet. With the model's folder its weights are hashed and run over the receipt's tokens;
    without one, what needs the model is inconclusive. Each check is printed with its value and its bound, then what the
    receipt rests on and what was not enforced.

    \b
    Exit code 0: accepted. 13: rejected, not what was asked for, or altered since. 14: unproven. 15: inconclusive, something is
    missing here. 3: a wrong setting. 6: the folder is no model that can be checked with. Of several receipts the worst counts.

    \b
      grail verify receipt.json --model ./Qwen2.5-0.5B
      grail verify receipts/*.json --model ./model --require order --json
    """
    from grail_core.commands.receipt_report import as_text, json_of

    named = list(_reports(files, folder, network, require, key, positions or None, device))
    click.echo(json_of(named) if as_json else as_text(named))
    end_with_worst(named)


def end_with_worst(named: Sequence[Named]) -> None:
    """Raises the error of the worst outcome; nothing where all are accepted."""
    from grail_core.protocol.findings import Outcome

    for outcome, error, hint in (
        (
            Outcome.REJECT,
            ReceiptRejectedError,
            "do not rely on it; where the check `node` passed, what that node signed is in the file",
        ),
        (Outcome.UNPROVEN, ReceiptUnprovenError, "ask again, or ask another node"),
        (Outcome.INCONCLUSIVE, ReceiptInconclusiveError, "give what is missing (see the report) and check again"),
    ):
        found = next((one for one in named if one.report.outcome is outcome), None)
        if found is not None:
            decisive = found.report.decisive
            said = f"{decisive.check}: {decisive.detail}" if decisive is not None else outcome.value
            more = sum(one.report.outcome is outcome for one in named) - 1
            others = f", and {more} more" if more else ""
            what = f"the receipt is {_WORDS[outcome.value]} ({said})"
            raise error(what, where=found.name + others, hint=_HINTS.get(said.partition(":")[0], hint))


_HINTS = {
    "receipt": "give the receipt itself: an answer's member `grail` says where it is (receipt_url, with ?token=receipt_token)",
    "model": "give --model the folder that the node serves; else the receipt is of another model than you hold",
    "require": "what is required was not there: `grail ask` signs no orders, and coordinators do not exist yet; calibrated "
    "classes and sizes are in docs/inference.md",
}
"""By the check that decided, where the outcome alone does not say what to try."""

_WORDS = {"reject": "rejected", "unproven": "unproven", "inconclusive": "not fully checked"}


def _reports(
    files: Sequence[Path],
    folder: Path | None,
    network: str | None,
    require: tuple[str, ...],
    key: bytes | None,
    positions: int | None,
    device: str,
) -> list[Named]:
    from grail_core.commands.receipt_models import Folders
    from grail_core.protocol.types import Hotkey
    from grail_core.verification.receipt import check_receipt

    params = None if network is None else network_named(network)
    folders = Folders(folder, device)
    reports = []
    for file in files:
        raw = read_receipt_file(file)
        report = check_receipt(
            raw,
            seed=os.urandom(32),
            network=params,
            model=folders.of(raw),
            positions=positions,
            require=require,
            node=None if key is None else Hotkey(key),
        )
        reports.append(Named(str(file), report))
    return reports


def read_receipt_file(file: Path) -> bytes:
    """At most a byte more than a receipt may have. Raises ConfigurationError."""
    from grail_core.errors import ConfigurationError
    from grail_core.inference.constants import MAX_RECEIPT_BYTES

    try:
        with file.open("rb") as opened:
            return opened.read(MAX_RECEIPT_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"the receipt cannot be read: {error.strerror}", where=str(file), hint="name a file with a receipt"
        ) from error


def network_named(text: str) -> NetworkParameters:
    """The parameters of a named network, or of a file. Raises ConfigurationError."""
    from grail_core.participant.deployment import parameters_named

    return parameters_named(text, where="--network")
