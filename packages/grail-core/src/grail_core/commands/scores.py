"""`grail scores`: a validator's weights computed again from what was published. Needs no key, chain, role or torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import common_options
from grail_core.errors import ProtocolViolationError
from grail_core.text import printable

if TYPE_CHECKING:
    from grail_core.commands.published_verdicts import Audit
    from grail_core.participant.settings import Settings
    from grail_core.protocol.network import NetworkParameters

EPILOG = """\b
BUCKET is one of
  DIR, file://DIR     a folder laid out like a bucket: DIR/grail/verdicts/{window}/verdict.json
  s3:…                what the validator committed on chain: it holds the key that reads its bucket
  fs:NAME             a bucket of a network on one machine, in GRAIL_STORAGE_ROOT

\b
A validator that was new or away remembers windows from another's verdicts, and its own verdicts say from whose. These are
looked for in the --also buckets. What was not found is named; where the weights come out equal all the same, it made no
difference.
What a miner did in each window (drawn, how many rollouts valid) is taken from that window's verdict: `grail-validator replay`
asks that of the files. Rounds of gradient work are named and passed over: `grail-validator replay` computes them again.

\b
Exit codes: 0 equal · 2 wrong usage · 3 a setting · 5 a bucket cannot be read · 11 a window differs, or is no verdict

\b
Examples:
  grail scores --from ~/verdicts                        every window there, a line each
  grail scores --from ~/verdicts --window 5490          the weights of one window, as canonical JSON: the verdict's own bytes
  grail scores --from s3:0:validator:… --also s3:0:leader:… --json
  GRAIL_NETWORK=out/network.json grail scores --from out/store/validator-1 --also out/store/validator-2
"""


@click.command(epilog=EPILOG)
@click.option("--from", "source", required=True, metavar="BUCKET", help="Whose verdicts are computed again.")
@click.option("--also", multiple=True, metavar="BUCKET", help="Where else to look for what it adopted; repeatable.")
@click.option("--window", type=click.IntRange(min=0), show_default="all", help="One window, by its first block.")
@click.option("--hotkey", show_default="who signed the newest verdict there", help="The validator (ss58).")
@click.option("--genesis-hash", metavar="HEX", help="Of the chain: verdicts of another network are refused then.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common_options
def scores(
    settings: Settings,
    source: str,
    also: tuple[str, ...],
    window: int | None,
    hotkey: str | None,
    genesis_hash: str | None,
    as_json: bool,
) -> None:
    """Compute scores and weights again from published verdicts, and say of each window whether they are equal.

    The network's rule (burn share, capped or not) is GRAIL_NETWORK's. With --window, standard output is the weights alone;
    everything else goes to standard error.
    """
    from grail_core.commands.published_verdicts import audit
    from grail_core.keys import from_ss58
    from grail_core.participant.buckets import open_bucket
    from grail_core.protocol.constants import WINDOW_LENGTH
    from grail_core.protocol.types import Window

    if window is not None and window % WINDOW_LENGTH:
        raise click.BadParameter(f"a window is a multiple of {WINDOW_LENGTH}", param_hint="--window")
    params = _network(settings)
    try:
        expected = None if hotkey is None else from_ss58(hotkey)
        network_id = None if genesis_hash is None else params.network_id(bytes.fromhex(genesis_hash.removeprefix("0x")))
    except ValueError as error:
        raise click.UsageError(f"--genesis-hash has 64 hexadecimal digits: {error}") from error
    found = audit(
        open_bucket(source, settings, params),
        [open_bucket(text, settings, params) for text in also],
        params,
        only=None if window is None else Window(window),
        validator=expected,
        network_id=network_id,
    )
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        _print(found, alone=window is not None)
    asked = [one for one in found.windows if not one.is_round]
    wrong = [str(one.window) for one in asked if not one.ok]
    if wrong:
        named = ", ".join(wrong[:20]) + (f" and {len(wrong) - 20} more" if len(wrong) > 20 else "")
        raise ProtocolViolationError(
            f"the weights of {len(wrong)} of {len(asked)} windows do not follow from the published verdicts: {named}",
            where=source[:24],
            hint=_hint(found),
        )


def _print(found: Audit, *, alone: bool) -> None:
    click.echo(f"validator {found.validator}, network {found.network_id.hex()[:16]}…", err=alone)
    for one in found.windows:
        if alone:
            click.echo(f"window {one.window}: {one.word}", err=True)
            if one.weights_json:
                click.echo(one.weights_json)
        else:
            click.echo(printable(f"{one.window:>10}  {one.word:10}", 100) + f"  {one.weights_json}")
        for note in one.notes:
            click.echo(printable(f"            {note}", 400), err=True)


def _hint(found: Audit) -> str:
    wrong = [one for one in found.windows if not one.ok and not one.is_round]
    if any(one.rule_differs for one in wrong):
        return "scores are equal and weights differ: is GRAIL_NETWORK this network's?"
    if any(one.lacks for one in wrong):
        return "verdicts of its memory were not found, named above: give the buckets they are in with --also"
    return "see each window above"


def _network(settings: Settings) -> NetworkParameters:
    """The rule alone is needed of it: a named network without its trainer will do."""
    from grail_core.participant.deployment import network_parameters
    from grail_core.protocol.network import NETWORKS

    return NETWORKS.get(settings.network) or network_parameters(settings)
