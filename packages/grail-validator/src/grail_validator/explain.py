"""Why a window was judged as it was: the verdict in the ledger, told with numbers."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.keys import from_ss58, ss58
from grail_core.participant.settings import Settings
from grail_core.protocol import MinerVerdict, SignedVerdict, VerdictBody
from grail_core.protocol.types import Window
from grail_core.telemetry.console import PlainConsole
from grail_validator.ledger import Ledger


def explain_window(settings: Settings, window: int, *, ledger: Path | None, hotkey: str | None, as_json: bool) -> None:
    """Print the verdict of a window from a validator's ledger on this machine. Needs no chain, wallet or network.

    Args:
        ledger: which one; None: the one in GRAIL_STATE_DIR that has this window.

    Raises:
        ConfigurationError: there is no ledger here, or more than one has this window.
        ProtocolViolationError: no ledger has a verdict of this window, or the verdict none of this hotkey.
    """
    opened = Ledger.reading(ledger if ledger is not None else find_ledger(settings, Window(window)))
    files, last = opened.files(Window(window)), opened.last_judged()
    if files is None:
        raise ProtocolViolationError(
            f"window {window} has not been judged here",
            hint=f"the last one judged is {last}"
            if last is not None
            else "none was judged yet; windows are multiples of 30 blocks",
        )
    body = SignedVerdict.decode(files.verdict).body
    miners = [m for m in body.miners if hotkey is None or hotkey in (m.hotkey.hex(), ss58(m.hotkey))]
    if hotkey is not None and not miners:
        from_ss58(hotkey)  # says so itself if this is no address
        raise ProtocolViolationError(f"hotkey {hotkey} was not registered in window {window}")
    if as_json:
        click.echo(json.dumps({**body.to_json(), "miners": [m.to_json() for m in miners]}, indent=2))
        return
    _print(body, miners)


def find_ledger(settings: Settings, window: Window) -> Path:
    """The ledger on this machine that has a window; the only one there is, where none has it.

    Raises:
        ConfigurationError: none, or more than one to choose from.
    """
    found = sorted(settings.state_dir.glob("*/*/validator/ledger.sqlite"))
    found += [path for path in (settings.cache_dir / "validator" / "ledger.sqlite",) if path.is_file()]
    if not found:
        raise ConfigurationError(
            "no validator has run on this machine",
            where=str(settings.state_dir),
            hint="set GRAIL_STATE_DIR to the validator's, or name its ledger with --ledger",
        )
    having = [path for path in found if Ledger.reading(path).files(window) is not None]
    candidates = having or found
    if len(candidates) > 1:
        raise ConfigurationError(
            f"{len(candidates)} validators' ledgers are here: " + ", ".join(str(path) for path in candidates),
            where=str(settings.state_dir),
            hint="name one of them with --ledger",
        )
    return candidates[0]


def _print(body: VerdictBody, miners: list[MinerVerdict]) -> None:
    console = PlainConsole()
    console.print(f"window {body.window}: {body.status.value} {body.reason}".rstrip())
    table = Table("uid", "hotkey", "verdict", "declared", "valid", "weight", "why")
    for miner in miners:
        reason = miner.reason or ("sampled rollouts pass every check" if miner.checked else "")
        weight = body.weights.get(miner.uid, 0)
        table.add_row(
            str(miner.uid),
            ss58(miner.hotkey),
            miner.status.value,
            str(miner.declared),
            str(miner.unique_valid),
            str(weight),
            reason,
        )
    console.print(table)
    for miner in miners:
        for finding in miner.findings:
            place = f" group {finding.group}" if finding.group is not None else ""
            numbers = f" value {finding.value}" if finding.value is not None else ""
            numbers += f", threshold {finding.threshold}" if finding.threshold is not None else ""
            console.print(
                f"  uid {miner.uid} {finding.check}: {finding.outcome.value}{numbers}{place} {finding.detail}".rstrip()
            )
