"""`grail storage rotate-key`: commits the read key of the settings, and says until when the old one has to live."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from grail_core.clock import utc_text
from grail_core.commands.options import common_options
from grail_core.errors import ConfigurationError

if TYPE_CHECKING:
    from grail_core.participant.read_key import Rotation
    from grail_core.participant.settings import Settings


@click.command("rotate-key")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common_options
def rotate_key(settings: Settings, as_json: bool) -> None:
    """Commit the read key that R2_READ_* name now, in place of the one on chain.

    Make a second read key, put it into the settings, and run this. Roles that run need no restart: they write with the
    write key. Revoke the old key at the store's provider, not before the block that this command names. What is committed is
    in force from the chain's next final block on: asked before, the chain still names the old key, and it is committed again.
    """
    from grail_core.participant.deployment import load_signer, network_parameters, open_chain, open_directory
    from grail_core.participant.deployment import require_registered as registered
    from grail_core.participant.read_key import rotate
    from grail_core.storage.s3_directory import S3Directory

    params, chain = network_parameters(settings), open_chain(settings)
    directory = open_directory(settings, params, chain)
    if not isinstance(directory, S3Directory):
        raise ConfigurationError(
            "buckets that are folders have no keys", where="GRAIL_STORAGE_ROOT", hint="there is nothing to change"
        )
    signer = load_signer(settings)
    found = rotate(chain, directory, params, signer, registered(chain, signer, settings))
    if as_json:
        click.echo(json.dumps(_value(found)))
        return
    for line in _lines(found):
        click.echo(line)


def _value(found: Rotation) -> dict[str, object]:
    term = found.term
    return {
        "committed": found.committed,
        "old_key_reads": found.old_reads,
        "last_window_of_old_key": None if term is None else term.last_window,
        "old_key_until_block": None if term is None else term.until_block,
        "old_key_until": None if term is None else utc_text(term.until_ms),
    }


def _lines(found: Rotation) -> list[str]:
    term = found.term
    if term is None and found.committed:
        return ["the read key is committed; the chain named none before"]
    unchanged = "the chain names this read key already: nothing was changed"
    if term is None:
        return [unchanged]
    if found.over:
        return [unchanged, f"nobody reads by a key before it any more, since block {term.until_block}: it may be revoked"]
    lines = [
        "the new read key is committed" if found.committed else unchanged,
        f"keep the old key until block {term.until_block}, about {utc_text(term.until_ms)}; windows up to {term.last_window} "
        "are read by it",
        "then revoke it at the store's provider",
    ]
    if found.old_reads is False:
        lines.append(f"the old key does not read any more: windows up to {term.last_window} are lost to their readers")
    return lines
