"""The network's beacon: each relay by itself, and this machine's clock against theirs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from grail_core.errors import BeaconError, GrailError
from grail_core.examination.findings import BEACON, Finding, broken, not_asked, ok, warning
from grail_core.examination.known import Known
from grail_core.participant.deployment import beacon_relays, network_clock, open_beacon
from grail_core.participant.settings import Settings

if TYPE_CHECKING:
    from grail_core.protocol.beacon import BeaconChain

TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class RelayFound:
    """What one relay showed."""

    url: str  # as it may be shown
    ok: bool
    told: str
    milliseconds: int | None = None  # of the answer with the round
    too_early: bool = False  # by its clock the round is not due, by this machine's it is


def beacon(settings: Settings, known: Known) -> Iterator[Finding]:
    """A round that is out by the network's clock can be had, and verifies; each relay is told where none gives one."""
    if known.params is None or known.chain is None:
        yield not_asked(BEACON, "beacon", "parameters and chain are needed for it")
        return
    if known.params.beacon_policy == "off":
        yield ok(BEACON, "beacon", "this network has none")
        return
    try:
        relays = open_beacon(settings, known.params)
        due = relays.chain.round_at(known.chain.now_ms()) - 2
        relays.get(due)
        yield ok(BEACON, "beacon", f"round {due} verifies")
    except GrailError as error:
        yield broken(BEACON, "beacon", error)
        return
    urls = beacon_relays(settings, known.params)
    found = [examine(url, known.params.beacon, due) for url in urls]
    for one in found:
        if not one.ok and not one.too_early:
            yield warning(
                BEACON,
                one.url,
                one.told,
                "mend GRAIL_BEACON_URLS, or GRAIL_NETWORK, which names the beacon; `grail beacon doctor` asks each",
            )
    yield from _clock(settings, known, [url for url, one in zip(urls, found, strict=True) if one.ok or one.too_early])


def _clock(settings: Settings, known: Known, serving: list[str]) -> Iterator[Finding]:
    from grail_core.examination.relay_clocks import hold_clock

    if known.params is None or settings.bt_network == "local":
        return  # a development chain has a clock of its own
    held = hold_clock(serving, known.params.beacon, network_clock(settings), TIMEOUT_S)
    if held.ok:
        yield ok(BEACON, "clock", held.told)
    else:
        yield broken(BEACON, "clock", BeaconError("a clock is wrong: " + held.told, hint="set it by NTP"))


def examine(url: str, chain: BeaconChain, round_: int) -> RelayFound:
    """Ask a relay what it serves, then for one round. Whatever it answers becomes a finding."""
    import httpx

    from grail_core.beacon.bls import is_valid
    from grail_core.beacon.chains import UnsupportedSchemeError, difference
    from grail_core.beacon.drand import parse_round
    from grail_core.beacon.relays import TooEarlyError, ask_info, ask_round, relay_name

    name = relay_name(url)
    try:
        other = difference(ask_info(url, TIMEOUT_S), chain)
        if other is not None:
            return RelayFound(name, False, other)
        started = time.monotonic()
        signed = parse_round(ask_round(url, round_, TIMEOUT_S))
        took = int(1000 * (time.monotonic() - started))
    except UnsupportedSchemeError as error:
        return RelayFound(name, False, f"relay serves another chain: {error}")
    except (httpx.HTTPError, ValueError) as error:
        too_early = isinstance(error, TooEarlyError)
        return RelayFound(name, False, str(error)[:200] or type(error).__name__, too_early=too_early)
    if signed.round != round_ or not is_valid(chain.public_key, round_, signed.signature):
        return RelayFound(name, False, f"its round {round_} does not verify", took)
    return RelayFound(name, True, f"round {round_} verifies", took)
