"""Copies of a validator's ledger: made while it runs, and brought back in one step while it does not."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click

from grail_core.disk import storage_errors, sync_folder
from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.keys import ss58
from grail_core.participant.deployment import network_parameters
from grail_core.participant.settings import Settings
from grail_core.participant.state import only_process
from grail_core.protocol.types import Hotkey
from grail_core.telemetry.json_output import say
from grail_validator.explain import ledgers_of
from grail_validator.ledger import Ledger
from grail_validator.ledger_schema import copy_to, ledger_database, owner_of


def backup_ledger(settings: Settings, target: Path, *, ledger: Path | None, as_json: bool = False) -> None:
    """Copy a ledger whole, also while its validator runs, and look through the copy before saying that there is one.

    Args:
        target: a file that is not there yet. ledger: which one; None: the only one in GRAIL_STATE_DIR.

    Raises:
        ConfigurationError: there is no ledger, or more than one to choose from, or a file of the target's name.
        DamagedStateError: the ledger, or the copy as it lies on its device, is damaged; no copy is left then.
        StorageError: the copy cannot be written.
    """
    source = ledger if ledger is not None else only_ledger(settings)
    opened = Ledger.reading(source)
    if not target.parent.is_dir():  # not made: what should be a mounted device may be missing
        raise ConfigurationError("there is no such folder", where=str(target.parent), hint="make it, or mount its device")
    with closing(ledger_database(source, read_only=True).connect()) as db:
        copy_to(db, target)
    copy = Ledger.reading(target)
    try:
        copy.require_whole()
    except DamagedStateError:
        target.unlink()
        opened.require_whole()  # says where, if it was damaged before it was copied
        raise
    say(f"{target}: {_said(copy)}", {"file": str(target), **_told(copy)}, as_json=as_json)


def restore_ledger(settings: Settings, source: Path, *, replace: bool, as_json: bool = False) -> None:
    """Put a copy in its validator's place; what lies there stays beside it under another name.

    Raises:
        ConfigurationError: the copy is no ledger; GRAIL_NETWORK names none; or a ledger is there already, and `replace` is
            not said.
        DamagedStateError: the copy is damaged; nothing is changed.
        AlreadyRunningError: the validator runs.
    """
    copy = Ledger.reading(source)
    copy.require_whole()
    path = _place_of(settings, source)
    with only_process(path.parents[1] / "lock", "the validator of this ledger runs", hint="stop it, then restore"):
        if path.exists() and not replace:
            raise ConfigurationError(
                f"there is a ledger in its place: {_described(path)}; the copy: {_said(copy)}",
                where=str(path),
                hint="say --replace to put the copy there; the other one stays beside it",
            )
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            incoming = path.with_name(f".{path.name}.incoming")
            incoming.unlink(missing_ok=True)
        with closing(ledger_database(source, read_only=True).connect()) as db:
            copy_to(db, incoming)
        with storage_errors(path):
            kept = _set_aside(path)
            os.replace(incoming, path)
            sync_folder(path.parent)
    said = f"{path}: {_said(copy)}" + (f"; the former one is {kept}" if kept else "")
    say(said, {"file": str(path), "former": str(kept) if kept else None, **_told(copy)}, as_json=as_json)


def _set_aside(path: Path) -> Path | None:
    """Keep what lies there under a name of its own, with what its log holds. The ledger itself stays until it is replaced, so
    that a process killed here leaves one; a log that stayed would be played into the copy."""
    if not path.exists():
        return None
    number = next(n for n in range(1, 10_000) if not path.with_name(f"{path.name}.replaced-{n}").exists())
    kept = path.with_name(f"{path.name}.replaced-{number}")
    try:
        with closing(ledger_database(path).connect()) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except DamagedStateError as error:
        click.echo(f"{path}: {error.what}; it is kept as it is", err=True)  # why it is replaced, as likely as not
    os.link(path, kept)
    for suffix in ("-wal", "-shm"):
        log = path.with_name(path.name + suffix)
        if log.exists():
            os.replace(log, kept.with_name(kept.name + suffix))
    sync_folder(path.parent)
    return kept


def _place_of(settings: Settings, source: Path) -> Path:
    owner = owner_of(source)
    if owner is None:
        raise ConfigurationError("this file is no ledger", where=str(source), hint="name a copy that `backup` made")
    network, hotkey = owner[0], ss58(Hotkey(bytes.fromhex(owner[1])))
    networks = sorted(settings.state_dir.glob(f"*-{network[:16]}"))
    if len(networks) > 1:
        raise ConfigurationError(
            f"{len(networks)} folders are of the network {network[:16]}…: {', '.join(path.name for path in networks)}",
            where=str(settings.state_dir),
            hint="keep the one that GRAIL_NETWORK names",
        )
    # A machine that has not run it yet: the folder that a role of this network would make.
    folder = networks[0] if networks else settings.state_dir / f"{network_parameters(settings).name}-{network[:16]}"
    return folder / hotkey / "validator" / "ledger.sqlite"


def only_ledger(settings: Settings) -> Path:
    """The one ledger in GRAIL_STATE_DIR. Raises ConfigurationError where there is none, or more than one."""
    found = ledgers_of(settings)
    if len(found) != 1:
        raise ConfigurationError(
            f"{len(found)} validators' ledgers are in this folder" + "".join(f"\n  {path}" for path in found),
            where=str(settings.state_dir),
            hint="name one with --ledger, or set GRAIL_STATE_DIR to the validator's",
        )
    return found[0]


def _described(path: Path) -> str:
    try:
        return _said(Ledger.reading(path))
    except ConfigurationError as error:
        return error.what


def _told(ledger: Ledger) -> dict[str, int | None]:
    return {"judged_up_to": ledger.last_judged()}


def _said(ledger: Ledger) -> str:
    last = ledger.last_judged()
    return "no window judged" if last is None else f"windows judged up to {last}"
