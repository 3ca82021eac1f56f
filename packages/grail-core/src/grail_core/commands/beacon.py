"""`grail beacon`: ask the network's relays one by one, and verify a round of any drand chain. Needs no key and no role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grail_core.commands.options import common_options, verbose_option
from grail_core.errors import BeaconError, ConfigurationError
from grail_core.text import printable

if TYPE_CHECKING:
    from grail_core.beacon.chains import ChainInfo, PresentedRound
    from grail_core.participant.settings import Settings

_TIMEOUT_S = 5.0
_MAX_FILE_BYTES = 16 * 1024
_NETWORKS = "network"


@click.group()
@verbose_option
def beacon() -> None:
    """The network's randomness beacon: its relays, and its rounds."""


@beacon.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common_options
def doctor(settings: Settings, as_json: bool) -> None:
    """Ask every relay of GRAIL_BEACON_URLS for its chain and for a round that is out.

    A relay is good if it serves the chain that the network's parameters pin, and its round verifies. This machine's clock is
    held against their newest rounds. Ends with exit code 9 where no relay is good, since a role needs one, or the clock is off.
    """
    from grail_core.beacon.chains import hash_of, name_of
    from grail_core.examination.relay_clocks import hold_clock
    from grail_core.examination.relays import TIMEOUT_S, examine
    from grail_core.participant.deployment import beacon_relays, network_clock, parameters_of

    params = parameters_of(settings)
    if params.beacon_policy == "off":
        click.echo(json.dumps({"policy": "off", "relays": []}) if as_json else f"network {params.name} has no beacon")
        return
    relays = beacon_relays(settings, params)
    clock = network_clock(settings)
    round_ = max(1, params.beacon.round_at(clock()) - 2)
    found = [examine(url, params.beacon, round_) for url in relays]
    serving = [url for url, one in zip(relays, found, strict=True) if one.ok or one.too_early]
    held = hold_clock(serving, params.beacon, clock, TIMEOUT_S)
    if as_json:
        value = {
            "policy": "required",
            "chain": hash_of(params.beacon),
            "public_key": params.beacon.public_key.hex(),
            "round": round_,
            "relays": [vars(one) for one in found],
            "clock": vars(held),
        }
        click.echo(json.dumps(value, indent=1))
    else:
        click.echo(f"network {params.name}, beacon chain {name_of(params.beacon)}, round {round_}")
        for one in found:
            took = f"{one.milliseconds:6d} ms" if one.milliseconds is not None else " " * 9
            click.echo(printable(f"{'ok    ' if one.ok else 'BROKEN'}  {took}  {one.url}  {one.told}"))
        click.echo(f"{'ok    ' if held.ok else 'BROKEN'}  {' ' * 9}  clock  {held.told}")
    if not held.ok:
        raise BeaconError("a clock is wrong: rounds are asked for by this machine's", where="clock", hint=held.told)
    if not any(one.ok for one in found):
        raise BeaconError(
            "no relay gives rounds of the network's beacon", where="GRAIL_BEACON_URLS", hint="see the lines above"
        )


@beacon.command("round")
@click.argument("number", metavar="N", type=click.IntRange(1, 2**63 - 1))
@click.option(
    "--chain",
    "chain_name",
    default=_NETWORKS,
    show_default=True,
    metavar="NAME|FILE",
    help="`network`: the one of GRAIL_NETWORK; quicknet; default (chained); or a file with a relay's /info.",
)
@click.option("--relay", "relays", multiple=True, metavar="URL", help="Ask here (default: GRAIL_BEACON_URLS).")
@click.option(
    "--file", "file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A relay's answer; nobody is asked."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common_options
def round_command(
    settings: Settings, number: int, chain_name: str, relays: tuple[str, ...], file: Path | None, as_json: bool
) -> None:
    """Verify round N of a drand chain, and print its randomness.

    Every scheme over BLS12-381 is verified, chained ones too. A network's beacon is of the scheme of quicknet: records of the
    protocol carry no signature of the round before. Exit code 9: it does not verify, or nobody gives it.

    \b
      grail beacon round 1000
      grail beacon round 4242000 --chain default --relay https://api.drand.sh/8990e7a9…
      grail beacon round 1000 --chain quicknet --file round.json
    """
    from grail_core.beacon.chains import InvalidRoundError, read_round

    info = _chain(settings, chain_name)
    where = str(file) if file is not None else ""
    try:
        if file is not None:
            presented = read_round(_bytes_of(file))
        else:
            presented, where = _asked(settings, number, info, relays)
        randomness = presented.verified(info, expected=number)
    except InvalidRoundError as error:
        hint = "ask another relay" if file is None else "the file holds no such round of this chain: look at N and --chain"
        raise BeaconError(f"round {number} is refused: {error}", where=where, hint=hint) from error
    except ValueError as error:
        raise BeaconError(f"this is no round: {error}", where=where) from error
    value: dict[str, Any] = {
        "chain": info.hash.hex() if info.group_hash else None,
        "scheme": info.scheme.value,
        "round": number,
        "time": info.genesis_time_s + (number - 1) * info.period_s,
        "signature": presented.signature.hex(),
        "randomness": randomness.hex(),
    }
    click.echo(json.dumps(value) if as_json else f"round {number} verifies under {info.scheme.value}\n{randomness.hex()}")


def _chain(settings: Settings, name: str) -> ChainInfo:
    from grail_core.beacon.bls import Scheme
    from grail_core.beacon.chains import KNOWN_CHAINS, ChainInfo, read_info
    from grail_core.participant.deployment import parameters_of

    if name in KNOWN_CHAINS:
        return KNOWN_CHAINS[name]
    if name == _NETWORKS:
        chain = parameters_of(settings).beacon
        known = next((info for info in KNOWN_CHAINS.values() if info.serves(chain)), None)
        return known or ChainInfo(Scheme.RFC9380, chain.public_key, chain.genesis_time_s, chain.period_s, b"")
    if not Path(name).is_file():
        names = ", ".join([_NETWORKS, *KNOWN_CHAINS])
        raise ConfigurationError("there is no such chain", where=f"--chain {name}", hint=f"{names}, or a file with /info")
    try:
        return read_info(_bytes_of(Path(name)))
    except ValueError as error:
        raise BeaconError(f"the chain cannot be used: {error}", where=name) from error


def _asked(settings: Settings, number: int, info: ChainInfo, relays: tuple[str, ...]) -> tuple[PresentedRound, str]:
    """The first answer that verifies, else the last one that did not."""
    import httpx

    from grail_core.beacon.chains import InvalidRoundError, read_round
    from grail_core.beacon.relays import ask_round, relay_name

    urls = relays or tuple(url.strip() for url in settings.beacon_urls.split(",") if url.strip())
    reasons, refused = [], None
    for url in urls:
        try:
            presented = read_round(ask_round(url.rstrip("/"), number, _TIMEOUT_S))
            presented.verified(info, expected=number)
        except InvalidRoundError as error:
            reasons.append(f"{relay_name(url)}: {error}")
            refused = presented, relay_name(url)
        except (httpx.HTTPError, ValueError) as error:
            reasons.append(f"{relay_name(url)}: {str(error)[:200] or type(error).__name__}")
        else:
            return presented, relay_name(url)
    if refused is not None:
        return refused
    raise BeaconError(
        f"no relay gave the round ({'; '.join(reasons) or 'there is no relay to ask'})",
        where=f"round {number}",
        hint="check the network, or name a relay of this chain with --relay",
    )


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigurationError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
