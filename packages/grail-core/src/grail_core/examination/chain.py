"""The chain, this machine's clock against it, and this hotkey's place in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from grail_core.clock import wall_clock_ms
from grail_core.errors import ConfigurationError, GrailError
from grail_core.examination.findings import CHAIN, Finding, broken, not_asked, ok, tried, warning
from grail_core.examination.known import Known, Role
from grail_core.participant.deployment import open_chain, require_chains_netuid, require_permit, require_registered
from grail_core.participant.settings import Settings

CLOCK_TOLERANCE_MS: Final = 5_000
_LATE_BLOCKS: Final = 5  # a newest block older than so many block times tells of a node that is behind, or of a clock


def chain(settings: Settings, known: Known, role: Role) -> Iterator[Finding]:
    """Everything that the chain is asked."""
    opened = None
    try:
        opened = open_chain(settings)
        head = opened.current_block()
        newest = opened.block(head).timestamp_ms
        known.chain = opened
        yield ok(CHAIN, "chain", f"block {head} of netuid {opened.netuid}")
    except GrailError as error:
        if opened is not None:
            opened.close()
        yield broken(CHAIN, "chain", error)
        for name in ("clock", "registration"):
            yield not_asked(CHAIN, name, "the chain does not answer")
        return
    params = known.params
    told = "netuid" in settings.model_fields_set and settings.netuid == opened.netuid  # of the network, where it is wrong
    if params is not None and not told:
        yield from tried(CHAIN, "netuid", lambda: require_chains_netuid(opened, settings, params))
    yield clock(settings, known, newest)
    yield from _registration(settings, known, role)


def clock(settings: Settings, known: Known, newest_ms: int) -> Finding:
    """This machine's clock, by the time of the chain's newest block."""
    if settings.bt_network == "local":
        return not_asked(CHAIN, "clock", "a development chain has a clock of its own, which everybody follows")
    age_ms = wall_clock_ms() - newest_ms
    block_ms = known.params.block_time_ms if known.params else 12_000
    told = f"the newest block is {age_ms / 1000:.1f} s old by this machine's clock (a block is {block_ms / 1000:.0f} s)"
    if age_ms < -CLOCK_TOLERANCE_MS:
        hint = "set the clock by NTP: deadlines and beacon rounds follow it"
        return broken(CHAIN, "clock", ConfigurationError(f"this machine's clock is slow: {told}", where="clock", hint=hint))
    if age_ms > _LATE_BLOCKS * block_ms:
        why = "the clock is fast, or the node is behind"
        return warning(CHAIN, "clock", f"{told}: {why}", "look at both: NTP, BT_CHAIN_ENDPOINT")
    return ok(CHAIN, "clock", told)


def _registration(settings: Settings, known: Known, role: Role) -> Iterator[Finding]:
    if known.signer is None or known.chain is None:
        yield not_asked(CHAIN, "registration", "there is no wallet")
        return
    try:
        neuron = require_registered(known.chain, known.signer, settings)
    except GrailError as error:
        yield broken(CHAIN, "registration", error)
        return
    bucket = "with a bucket" if neuron.commitment else "without a bucket yet: it is committed at the first start"
    yield ok(CHAIN, "registration", f"UID {neuron.uid}, {bucket}")
    if role.permit:
        found = list(tried(CHAIN, "permit", partial(require_permit, neuron, settings, known.chain.netuid)))
        yield from found or [ok(CHAIN, "permit", "this hotkey may set weights")]
