"""`grail-trainer audit`: repeats what a trainer published, and says of each window whether it follows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import click

from grail_core.checkpoints.pinned_table import read_own_copy
from grail_core.errors import ConfigurationError, ProtocolViolationError, StorageError
from grail_core.files.confined.opening import Confined
from grail_core.participant.settings import Settings
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.reading import MAX_JSON_INTEGER
from grail_core.protocol.types import Window
from grail_core.protocol.windows import window_of
from grail_core.telemetry.console import PlainConsole
from grail_core.telemetry.progress import progress
from grail_envs.bound import BoundEnvironments
from grail_trainer.auditing.auditor import Auditor
from grail_trainer.auditing.observer import observer
from grail_trainer.auditing.published_logs import PublishedLogs
from grail_trainer.auditing.report import Outcome, WindowAudit
from grail_trainer.publishing.state_anchors import AUDITABLE_WINDOWS

_RANGE = re.compile(r"(0|[1-9][0-9]{0,15})(?:-(0|[1-9][0-9]{0,15}))?")


@dataclass(frozen=True)
class AuditRequest:
    """What the command line asks for: windows and ranges of them as text, or every one that can still be audited."""

    windows: tuple[str, ...]
    every: bool


def audit_command(settings: Settings, asked: AuditRequest, *, as_json: bool) -> None:
    """Audit windows and print each outcome as it comes.

    Raises:
        ProtocolViolationError: a window does not follow from what its log names.
        StorageError: none differs, and one could not be audited.
    """
    if settings.calibration is not None:
        read_own_copy(settings.calibration)
    ranges = [window_range(text) for text in asked.windows]
    participant = observer(settings)
    done: list[WindowAudit] = []
    with Confined() as confined, progress() as bar:
        total = 1

        def told(stage: str, window: Window) -> None:
            bar("windows", len(done), max(total, len(done) + 1), f"{window}: {stage}")

        auditor = Auditor(
            participant,
            BoundEnvironments(settings.data_dir),
            device=settings.device,
            open_file=confined.open_file,
            progress=told,
        )
        now = window_of(participant.chain.current_block())
        oldest = Window(max(0, now - AUDITABLE_WINDOWS * WINDOW_LENGTH))
        windows = _windows(auditor.logs, [(oldest, now)] if asked.every else ranges)
        total = len(windows)
        console = PlainConsole()
        for one in auditor.audit(windows):
            done.append(one)
            if not as_json:
                for line in one.lines():
                    console.say(line)
    if as_json:
        click.echo(json.dumps([one.to_json() for one in done], indent=1))
    _end(done)


def window_range(text: str) -> tuple[Window, Window]:
    """ "120" or "120-300": first and last window.

    Raises:
        ConfigurationError: it is neither.
    """
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if match is None or first > last or last > MAX_JSON_INTEGER:
        raise ConfigurationError(
            f"{text!r} is no window and no range of windows", where="WINDOW", hint="for example 4242000, or 4242000-4242300"
        )
    for one in (first, last):
        if one % WINDOW_LENGTH:
            raise ConfigurationError(
                f"there is no window {one}",
                where="WINDOW",
                hint=f"windows are multiples of {WINDOW_LENGTH}: block {one} is in window {window_of(one)}",
            )
    return Window(first), Window(last)


def _windows(logs: PublishedLogs, ranges: Sequence[tuple[Window, Window]]) -> list[Window]:
    """Those that are named, and of ranges those that have a log."""
    found: list[Window] = []
    for first, last in ranges:
        found += [first] if first == last else logs.windows(first, last)
    if not found:
        raise StorageError(
            "the trainer has published no training log of these windows",
            hint="only windows that were learned from have one; `grail checkpoint show` lists what was published. Rounds "
            "of gradient work have none: `grail-trainer merge T` makes the merge of one again",
        )
    return found


def _end(done: Sequence[WindowAudit]) -> None:
    different = [one for one in done if one.outcome is Outcome.DIFFERENT]
    without = [one for one in done if one.outcome is Outcome.UNAUDITABLE]
    if different:
        raise ProtocolViolationError(
            f"{len(different)} of {len(done)} windows are not what follows from what their logs name",
            where=f"windows {', '.join(str(one.window) for one in different[:20])}",
            hint="the lines above say what differs first; keep the logs: the trainer has signed them",
        )
    if without:
        raise StorageError(
            f"{len(without)} of {len(done)} windows cannot be audited: {without[0].difference}",
            where=f"window {without[0].window}",
            hint=f"nothing is said of the trainer; what is away now (a relay, a bucket) may be back later, but the files of a "
            f"window are kept for {AUDITABLE_WINDOWS} windows alone",
        )
