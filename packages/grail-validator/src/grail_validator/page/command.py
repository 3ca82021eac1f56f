"""`grail-validator serve`: from settings and options to a page that listens."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import click

from grail_core.errors import ConfigurationError
from grail_core.keys import from_ss58
from grail_core.participant.buckets import open_bucket, own_bucket
from grail_core.participant.deployment import parameters_of
from grail_core.participant.settings import Settings
from grail_core.protocol.network import LOCALNET, UNSET_HOTKEY, NetworkParameters
from grail_core.telemetry.json_output import say
from grail_core.text import printable
from grail_validator.ledger_copies import only_ledger
from grail_validator.page.app import Page
from grail_validator.page.board import Board
from grail_validator.page.checkpoint_page import Manifests
from grail_validator.page.layout import Facts
from grail_validator.page.serving import bind, is_loopback, serving
from grail_validator.page.sources import BucketSource, LedgerSource, Source

FIRST_SECONDS = 4.0
"""Of reading before it listens; the background reads the rest."""
PUBLIC = "listening beyond this machine: everything shown is public anyway; put a proxy that does TLS before it"


@dataclass(frozen=True)
class ServeRequest:
    """What the command line asks for."""

    host: str
    port: int
    bucket: str | None
    ledger: Path | None
    validator: str | None


def serve_command(settings: Settings, asked: ServeRequest, stop: threading.Event, *, as_json: bool) -> None:
    """Serve until `stop` is set.

    Raises:
        ConfigurationError: no such source, a ledger of another version, or an address that cannot be listened on.
    """
    rule = _rule(settings, required=(asked.bucket or "").startswith("s3:"))
    source = _source(settings, asked, rule)
    validator = None if asked.validator is None else from_ss58(asked.validator)
    board = Board(source, validator=validator)
    trainer = None if rule is None or rule.trainer_hotkey == UNSET_HOTKEY else rule.trainer_hotkey
    facts, manifests = Facts(source.what, "" if rule is None else rule.name, rule), Manifests(settings.cache_dir, trainer)
    with bind(asked.host, asked.port) as bound:
        address = bound.getsockname()[0]  # a host may be a name, or written otherwise: what it came to says who can ask
        page = Page(facts, board, manifests, loopback=is_loopback(address))
        if not page.loopback:
            click.echo(f"note: {PUBLIC}", err=True)
        board.refresh(seconds=FIRST_SECONDS)
        with serving(page, bound, stop) as url:
            told = {
                "url": url,
                "source": source.what,
                "windows": len(board.snapshot.windows),
                "problem": board.snapshot.problem,
            }
            problem = f"; {board.snapshot.problem}" if board.snapshot.problem else ""
            said = f"{url}  {len(board.snapshot.windows)} windows from {source.what}{problem} (Ctrl-C ends it)"
            say(printable(said, 400), told, as_json=as_json)
            stop.wait()


def _rule(settings: Settings, *, required: bool) -> NetworkParameters | None:
    """The network of the settings. Without it pages are shown all the same, but for forecasts and manifests."""
    try:
        return parameters_of(settings)
    except ConfigurationError as error:
        if required:
            raise
        click.echo(f"note: nothing is forecast, since GRAIL_NETWORK cannot be read: {error.what}", err=True)
        return None


def _source(settings: Settings, asked: ServeRequest, rule: NetworkParameters | None) -> Source:
    if asked.bucket is not None:
        store = open_bucket(asked.bucket, settings, rule or LOCALNET)  # a folder needs nothing of it
        return BucketSource(store, _name(asked.bucket))
    path = asked.ledger if asked.ledger is not None else only_ledger(settings)
    try:
        own = None if rule is None else own_bucket(settings, rule)
    except ConfigurationError:
        own = None  # evidence that is published already is then not offered, and its page says so
    return LedgerSource(path, own)


def _name(bucket: str) -> str:
    """A bucket for a page that anybody may read: no key and no path."""
    if bucket.startswith("s3:"):
        return "the bucket " + ":".join(bucket.split(":")[1:3])
    return f"the published verdicts in {Path(bucket.removeprefix('file://').removeprefix('fs:')).resolve().name}"
