"""`grail verify`: a receipt checked offline, by whoever holds it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import verbose_option
from grail_core.commands.receipt_options import (
    Positions,
    Wanted,
    genesis_option,
    key_option,
    owner_option,
    require_option,
    table_option,
)
from grail_core.errors import ReceiptInconclusiveError, ReceiptRejectedError, ReceiptUnprovenError

if TYPE_CHECKING:
    from grail_core.verification.receipt import ReceiptReport


@dataclass(frozen=True)
class Named:
    """A receipt's report under the name that it was given by."""

    name: str
    report: ReceiptReport


@click.command()
@click.argument("files", metavar="RECEIPT...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The model's folder (default: a folder of the hub's cache with the receipt's configuration, if there is one).",
)
@click.option("--network", help="Whose receipts they must be: a named network, or a JSON file of network parameters.")
@genesis_option
@require_option
@key_option
@owner_option
@table_option
@click.option(
    "--positions",
    type=Positions(),
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
    genesis: bytes | None,
    require: tuple[str, ...],
    key: bytes | None,
    owner: bytes | None,
    table: Path | None,
    positions: int,
    device: str,
    as_json: bool,
) -> None:
    """Check receipts of inference offline: who signed what, and that this model drew exactly these tokens.

    Needs no network, no chain and no wallet. With the model's folder its weights are hashed and run over the receipt's tokens;
    without one, what needs the model is inconclusive. Each check is printed with its value and its bound, then what the
    receipt rests on and what was not enforced. RECEIPT may be - for standard input.

    Larger models and GPUs have the coarse bounds alone in this release. With a table that you measured (`grail receipts
    calibrate`), or had from somebody whom you trust, finer ones hold too; the report says whose they were.

    \b
    Exit code 0: accepted. 13: rejected, not what was asked for, or altered since. 14: unproven. 15: inconclusive, something is
    missing here, or a receipt's file cannot be read. 3: a wrong setting. 6: the folder is no model that can be checked with. Of
    several receipts the worst counts.

    \b
      grail verify receipt.json --model ./Qwen2.5-0.5B
      grail verify receipts/*.json --model ./model --owner 5Grwva… --json
      grail verify receipt.json --model ./model --table table.json --require calibrated
    """
    from grail_core.commands.receipt_report import as_text, json_of

    if files.count(_STDIN) > 1:
        raise click.UsageError("standard input has one receipt: - can be given once")
    wanted = Wanted(folder, network, genesis, require, key, owner, table, positions or None, device)
    wanted.read()
    named = list(_reports(files, wanted))
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
            check = "" if outcome is Outcome.INCONCLUSIVE and decisive is not None and decisive.check == "receipt" else said
            raise error(what, where=found.name + others, hint=_HINTS.get(check.partition(":")[0], hint))


_STDIN = Path("-")
_HINTS = {
    "receipt": "give the receipt itself: an answer's member `grail` says where it is (receipt_url, with ?token=receipt_token)",
    "model": "give --model the folder that the node serves; else the receipt is of another model than you hold",
    "require": "what is required was not there: `grail ask` signs no orders, and coordinators do not exist yet; for models "
    "that docs/inference.md calls not calibrated, `grail receipts calibrate` makes a table for --table",
}
"""By the check that decided, where the outcome alone does not say what to try."""

_WORDS = {"reject": "rejected", "unproven": "unproven", "inconclusive": "not fully checked"}


def _reports(files: Sequence[Path], wanted: Wanted) -> Iterator[Named]:
    """Of each file; one that cannot be read has a report that says so."""
    for file in files:
        name = "standard input" if file == _STDIN else str(file)
        try:
            raw = _read(file)
        except OSError as error:
            yield Named(name, _unreadable(error))
        else:
            yield Named(name, wanted.check(raw))


def _read(file: Path) -> bytes:
    """At most a byte more than a receipt may have. Raises OSError."""
    from grail_core.inference.constants import MAX_RECEIPT_BYTES

    if file == _STDIN:
        return sys.stdin.buffer.read(MAX_RECEIPT_BYTES + 1)
    with file.open("rb") as opened:
        return opened.read(MAX_RECEIPT_BYTES + 1)


def _unreadable(error: OSError) -> ReceiptReport:
    from grail_core.protocol.findings import Outcome
    from grail_core.verification.receipt import ReceiptReport
    from grail_core.verification.wording import say

    detail = f"the file cannot be read: {error.strerror or type(error).__name__}"
    return ReceiptReport((say(Outcome.INCONCLUSIVE, "receipt", detail=detail),))
