"""`grail rollouts`: verified rollouts as a data set that other tools read. Needs no key, no role and no model."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import common_options, verbose_option

if TYPE_CHECKING:
    from grail_core.commands.network_view import NetworkView
    from grail_core.exported.folder import Format, Receipt
    from grail_core.participant.settings import Settings
    from grail_core.protocol.types import Window

EVERY_SECONDS = 30.0
"""A line of progress in a pipe at least so often, while there is something to tell."""

EPILOG = """\b
Columns, and how TRL, verl, prime-rl and pandas read them: docs/rollouts.md.
Validators keep accepted files for 48 windows, under five hours at 12 seconds a block: what is older is gone from their buckets.

\b
Examples:
  grail rollouts export 4242000..latest rollouts
  grail rollouts export latest rollouts --format jsonl
  grail rollouts export 4242000..4243500 dataset --format hf       datasets.load_dataset("dataset")
"""


@click.group()
@verbose_option
def rollouts() -> None:
    """Verified rollouts for other tools: export them as a data set."""


@rollouts.command(epilog=EPILOG)
@click.argument("windows", metavar="FROM..TO")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "jsonl", "hf"]),
    default="parquet",
    show_default=True,
    help="hf: Parquet with a data set card, for `datasets`.",
)
@click.option("--keep-files", is_flag=True, help="Also keep the accepted files, which anybody can verify offline.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output; progress goes to standard error.")
@common_options
def export(settings: Settings, windows: str, folder: Path, form: Format, keep_files: bool, as_json: bool) -> None:
    """Write the rollouts that validators accepted in these windows to DIR: texts, tokens, log-probabilities, rewards, receipts.

    FROM and TO are windows' first blocks, both included; `latest` is the newest window that was judged, and one window alone
    will do. The same command goes on where it was stopped, or adds windows to DIR; windows of which something was missing are
    tried again. One accepted file is in memory at a time. Ends with exit code 11 where these windows have
    no accepted rollout.
    """
    from grail_core.commands.network_view import view_network
    from grail_core.errors import ProtocolViolationError
    from grail_core.exported.accepted import ExportSource
    from grail_core.exported.exporting import Exporter
    from grail_core.exported.folder import About
    from grail_core.exported.target import writing
    from grail_core.files.confined.opening import Confined

    view = view_network(settings)
    chosen = _windows(view, windows)
    progress = _Progress()
    with writing(folder, About(form, view.params.name, view.network_id)) as target, Confined() as confined:
        source = ExportSource(view.chain, view.params, view.network_id, view.directory, view.checkpoints, confined.open_file)
        exporter = Exporter(source, target, keep_files=keep_files, tell=progress.now_and_then)
        done: list[Receipt] = []
        for number, window in enumerate(chosen):
            done.append(exporter.window(window))
            progress.window(done[-1], number + 1, len(chosen))
    rows = sum(receipt.rows for receipt in done)
    if as_json:
        click.echo(json.dumps(_summary(folder, done)))
    else:
        click.echo(f"{rows} rollouts of {sum(bool(one.files) for one in done)} windows → {folder}")
    if not rows:
        reasons = "; ".join(dict.fromkeys(one.reason or _missing(one) for one in done))
        raise ProtocolViolationError(
            f"no rollout was exported: {reasons[:500]}",
            where=windows,
            hint="`grail status` shows which windows validators have judged; files are kept for 48 windows",
        )


def _windows(view: NetworkView, text: str) -> list[Window]:
    """Raises click.BadParameter, ChainError, ProtocolViolationError."""
    from grail_core.protocol.constants import WINDOW_LENGTH
    from grail_core.protocol.types import Window

    first, dots, last = text.partition("..")
    low = _one(view, first)
    high = _one(view, last) if dots else low
    if low > high:
        raise click.BadParameter(f"{low} is after {high}", param_hint="FROM..TO")
    if high >= view.window:
        raise click.BadParameter(
            f"window {high} is not over; this is window {view.window}, and one is judged a few blocks after its end",
            param_hint="FROM..TO",
        )
    return [Window(number) for number in range(low, high + 1, WINDOW_LENGTH)]


def _one(view: NetworkView, text: str) -> Window:
    from grail_core.protocol.constants import WINDOW_LENGTH
    from grail_core.protocol.types import Window

    if text == "latest":
        return view.newest_judged(view.validators())
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise click.BadParameter(f"{text!r} is no block number, and not `latest`", param_hint="FROM..TO")
    if int(text) % WINDOW_LENGTH:
        inside = int(text) - int(text) % WINDOW_LENGTH
        raise click.BadParameter(f"windows are multiples of {WINDOW_LENGTH}: {text} is in {inside}", param_hint="FROM..TO")
    return Window(int(text))


class _Progress:
    """Lines on standard error: one a window, and inside a long one one every 30 seconds."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def now_and_then(self, line: str) -> None:
        if time.monotonic() - self._told >= EVERY_SECONDS:
            self._say(line)

    def window(self, receipt: Receipt, number: int, of: int) -> None:
        size = sum(file.shard_bytes for file in receipt.files)
        told = f"{receipt.rows} rollouts of {len(receipt.files)} files, {size / 2**20:.1f} MiB" if receipt.files else "nothing"
        told += f"; {_missing(receipt)}" if receipt.missing else ""
        self._say(f"window {receipt.window} ({number} of {of}): {told}" + (f": {receipt.reason}" if receipt.reason else ""))

    def _say(self, line: str) -> None:
        from grail_core.text import printable

        self._told = time.monotonic()
        print(printable(line), file=sys.stderr, flush=True)


def _missing(receipt: Receipt) -> str:
    reasons = "; ".join(dict.fromkeys(reason for _, _, reason in receipt.missing))
    return f"{len(receipt.missing)} accepted files could not be had ({reasons[:300]})" if receipt.missing else ""


def _summary(folder: Path, done: list[Receipt]) -> dict[str, object]:
    return {
        "folder": str(folder),
        "rollouts": sum(receipt.rows for receipt in done),
        "windows": [
            {
                "window": receipt.window,
                "rollouts": receipt.rows,
                "files": len(receipt.files),
                "missing": len(receipt.missing),
                "final": receipt.final,
                "reason": receipt.reason,
            }
            for receipt in done
        ],
    }
