"""`grail network`: what a network's parameters are, and the digest by which everybody knows that they have the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import common_options
from grail_core.text import printable

if TYPE_CHECKING:
    from grail_core.participant.settings import Settings
    from grail_core.protocol.network import NetworkParameters


@click.command("network")
@click.argument("source", metavar="[NAME|FILE|URL]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: digest and parameters.")
@common_options
def network(settings: Settings, source: str | None, as_json: bool) -> None:
    """Show a network's parameters and their digest (default: those of GRAIL_NETWORK).

    Whoever opens a network publishes the file and, by another way, this digest; who joins sets GRAIL_NETWORK to the file's path
    or https URL, and GRAIL_NETWORK_DIGEST to the digest. What a URL shows here is not held against any digest.
    """
    params = _parameters(settings, source)
    if as_json:
        click.echo(json.dumps({"digest": params.digest.hex(), "parameters": params.to_json()}, indent=1))
        return
    from grail_core.chain.base import seconds_of
    from grail_core.keys import ss58
    from grail_core.protocol.network import UNSET_HOTKEY

    trainer = "none: nobody can join it" if params.trainer_hotkey == UNSET_HOTKEY else ss58(params.trainer_hotkey)
    buckets = ", ".join(params.store_hosts) or "folders of one machine"
    rows = {
        "network": params.name,
        "digest": params.digest.hex(),
        "netuid": str(params.netuid),
        "trainer": trainer,
        "block time": f"{seconds_of(1, params.block_time_ms):g} s",
        "beacon": f"key {params.beacon.public_key.hex()[:16]}…, a round every {params.beacon.period_s} s",
        "buckets": buckets,
    }
    for name, value in rows.items():
        click.echo(printable(f"{name:10}  {value}"))


def _parameters(settings: Settings, source: str | None) -> NetworkParameters:
    from grail_core.participant.deployment import parameters_named, parameters_of
    from grail_core.participant.network_file import is_url, read_url

    if source is None:
        return parameters_of(settings)
    if is_url(source):
        return read_url(source, where="grail network", digest="", cache=None)
    return parameters_named(source, where="NAME")
