"""Why a window was judged as it was: the verdict in the ledger, told with numbers, likely causes and what to do."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click
from rich.table import Table

from grail_core.commands.explained import miners_of_window, print_window, window_json
from grail_core.commands.explained_round import miners_of_round, print_round, round_json
from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.participant.buckets import open_bucket
from grail_core.participant.deployment import parameters_of
from grail_core.participant.settings import Settings
from grail_core.protocol import Outcome, SignedVerdict
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.types import Window
from grail_core.telemetry.console import PlainConsole
from grail_validator.explain_row import Row, explain_row, lost_draws_of
from grail_validator.ledger import Ledger, PublishedFiles
from grail_validator.ledger_schema import owner_of
from grail_validator.published import BucketVerdicts, files_of
from grail_validator.round_cases import RoundFiles


def explain_window(
    settings: Settings,
    window: int,
    *,
    ledger: Path | None,
    hotkey: str | None,
    as_json: bool,
    row: str | None = None,
    bucket: str | None = None,
    whole: bool = False,
) -> None:
    """Print the verdict of a window, or of the round that it begins. Needs no chain, wallet or network.

    Args:
        ledger: which one; None: the one in GRAIL_STATE_DIR that has this window. bucket: of a validator, whose published
            verdict is told in place of a ledger's.
        whole: every number also of what was accepted.
        row: GROUP:R, a sampled rollout of the one miner that `hotkey` names: its evidence is shown too.

    Raises:
        ConfigurationError: there is no ledger here, a damaged one, or more than one has this window.
        ProtocolViolationError: there is no verdict of this window, or the verdict has none of this hotkey or rollout.
        StorageError: the bucket cannot be read.
    """
    asked = _row(row)
    if asked is not None and hotkey is None:
        raise click.UsageError("--row is one miner's: name the miner with --hotkey")
    files = _of_bucket(settings, Window(window), bucket) if bucket is not None else _of_ledger(settings, Window(window), ledger)
    if isinstance(files, RoundFiles):
        if asked is not None:
            raise ProtocolViolationError(f"{window} is a round of gradient work, which has no rollouts", hint="leave --row out")
        _explain_round(SignedGradientVerdict.decode(files.verdict), hotkey, as_json, whole)
        return
    verdict = SignedVerdict.decode(files.verdict)
    body = verdict.body
    miners = miners_of_window(body, hotkey)
    shown = explain_row(settings, verdict, files.evidence, miners, asked) if asked is not None else None
    if as_json:
        value = {**window_json(body, miners), **({} if shown is None else {"row": shown.to_json()})}
        click.echo(json.dumps(value, indent=2))
        return
    print_window(body, miners, whole=whole)
    if hotkey is not None:
        for miner in miners:
            if any(one.check == "sampling" and one.outcome is Outcome.REJECT for one in miner.findings):
                PlainConsole().say(f"  {lost_draws_of(settings, verdict, files.evidence, miner)}")
    if shown is not None:
        _print_row(shown)


def _explain_round(verdict: SignedGradientVerdict, hotkey: str | None, as_json: bool, whole: bool) -> None:
    miners = miners_of_round(verdict.body, hotkey)
    if as_json:
        click.echo(json.dumps(round_json(verdict, miners), indent=2))
    else:
        print_round(verdict, miners, whole=whole)


def _of_ledger(settings: Settings, window: Window, ledger: Path | None) -> PublishedFiles | RoundFiles:
    """What a ledger on this machine has of a window or round."""
    path = ledger if ledger is not None else find_ledger(settings, window)
    opened = Ledger.reading(path)
    files = files_of(opened, window)
    if files is None:
        judged = (opened.last_judged(), opened.rounds.last_judged() if opened.rounds.kept else None)
        last = max((one for one in judged if one is not None), default=None)
        raise ProtocolViolationError(f"window {window} has not been judged here", where=str(path), hint=_instead(window, last))
    return files


def _of_bucket(settings: Settings, window: Window, name: str) -> PublishedFiles | RoundFiles:
    """What a validator published of it. The signature is held against the validator and the network that the verdict names."""
    raw = BucketVerdicts(open_bucket(name, settings, parameters_of(settings))).read(window)
    if raw is None:
        raise ProtocolViolationError(f"no verdict of window {window} is there", where=name, hint=_instead(window, None))
    problem = "it is neither a window's nor a round's"
    for kind, files in ((SignedGradientVerdict, RoundFiles), (SignedVerdict, PublishedFiles)):
        try:
            verdict = kind.decode(raw)
        except ValueError:
            continue
        if verdict.body.window == window and verdict.verify(verdict.body.network_id):
            return files(raw, b"")
        problem = "it is of another window, or its signature is not its validator's"
    raise ProtocolViolationError(f"what lies there is no verdict of window {window}: {problem}", where=name)


def _row(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,15}):(\d{1,2})", text)
    if match is None:
        raise click.UsageError(f"--row {text}: give GROUP:R, for example 12:3")
    return int(match[1]), int(match[2])


def _instead(window: int, last: Window | None) -> str:
    """What may be asked instead of a window that was not judged."""
    if window % WINDOW_LENGTH:
        return f"windows are multiples of {WINDOW_LENGTH}: block {window} is in window {window - window % WINDOW_LENGTH}"
    if last is None:
        return "none was judged yet; a window is judged some blocks after its deadline, 30 blocks after its number"
    if window > last:
        return f"the last one judged is {last}; a window is judged some blocks after its deadline"
    return f"the last one judged is {last}; this one was before the validator's first, or away from this ledger"


def ledgers_of(settings: Settings) -> list[Path]:
    """The ledgers in GRAIL_STATE_DIR, of all networks and hotkeys.

    Raises:
        ConfigurationError: there is none, and a folder in which one may be belongs to another user.
    """
    found = sorted(settings.state_dir.glob("*/*/validator/ledger.sqlite"))
    if not found:
        for folder in (folder for depth in ("*", "*/*", "*/*/validator") for folder in settings.state_dir.glob(depth)):
            if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
                hint = "run this as the validator's user, or name a ledger with --ledger"
                raise ConfigurationError("this user may not look into the folder", where=str(folder), hint=hint)
    return found


def find_ledger(settings: Settings, window: Window) -> Path:
    """The ledger on this machine that has a window; the only one there is, where none has it.

    Raises:
        ConfigurationError: none, more than one to choose from, or none that can be read.
    """
    found = ledgers_of(settings)
    found += [path for path in (settings.cache_dir / "validator" / "ledger.sqlite",) if path.is_file()]
    if not found:
        raise ConfigurationError(
            "no validator has run on this machine",
            where=str(settings.state_dir),
            hint="set GRAIL_STATE_DIR to the validator's, or name its ledger with --ledger",
        )
    whole = [path for path in found if owner_of(path) is not None]
    if not whole:
        raise ConfigurationError(
            "the ledger that is here cannot be read: its header is damaged, or it belongs to another user",
            where=", ".join(str(path) for path in found),
            hint="bring a copy back with `grail-validator restore`, or name another one with --ledger",
        )
    having: list[Path] = []
    others: list[Path] = []
    refused: ConfigurationError | None = None
    for path in whole:
        try:
            (others if files_of(Ledger.reading(path), window) is None else having).append(path)
        except ConfigurationError as error:  # another version's, or damaged: it matters where no other one has the window
            refused = refused or error
    if refused is not None and not having:
        raise refused
    candidates = having or others
    if len(candidates) > 1:
        raise ConfigurationError(
            f"{len(candidates)} validators' ledgers are here: " + ", ".join(str(path) for path in candidates),
            where=str(settings.state_dir),
            hint="name one of them with --ledger",
        )
    return candidates[0]


def _print_row(row: Row) -> None:
    console = PlainConsole()
    console.say(f"group {row.group} rollout {row.rollout}: {row.grade}")
    for note in row.notes:
        console.say(f"  {note}")
    table = Table("position", "token", "log-probability claimed", "measured", "margin", "sketch error")
    for line in row.lines:
        table.add_row(*line.cells())
    console.print(table)
