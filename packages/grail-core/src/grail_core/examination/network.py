"""Which network this is, with which key, and into which bucket: what needs nobody else to answer."""

from __future__ import annotations

from collections.abc import Iterator

from grail_core.clock import wall_clock_ms
from grail_core.errors import GrailError, StorageError
from grail_core.examination.findings import BUCKET, NETWORK, WALLET, Finding, broken, not_asked, ok, tried
from grail_core.examination.known import Known, Role
from grail_core.participant.deployment import (
    beacon_relays,
    directory_on,
    load_signer,
    network_parameters,
    open_directory,
    require_netuid,
    require_trainer_hotkey,
)
from grail_core.participant.settings import Settings


def parameters(settings: Settings, known: Known) -> Iterator[Finding]:
    """The network's parameters, and whether the settings go with them."""
    try:
        known.params = params = network_parameters(settings)
    except GrailError as error:
        yield broken(NETWORK, "parameters", error)
        return
    told = f"{params.name}, netuid {params.netuid}, digest {params.digest.hex()[:12]}… (GRAIL_NETWORK)"
    yield ok(NETWORK, "parameters", told)
    if "netuid" in settings.model_fields_set:
        yield from tried(NETWORK, "netuid", lambda: require_netuid(settings.netuid, params))
    yield from tried(NETWORK, "relays", lambda: beacon_relays(settings, params))


def wallet(settings: Settings, known: Known, role: Role) -> Iterator[Finding]:
    """The hotkey, and of a trainer whether it is the network's."""
    from grail_core.keys import ss58

    try:
        known.signer = load_signer(settings)
    except GrailError as error:
        yield broken(WALLET, "wallet", error)
        return
    ours = known.signer.hotkey
    yield ok(WALLET, "wallet", f"{settings.wallet_cold}/{settings.wallet_hot}: {ss58(ours)}")
    if role.trainer and known.params is not None:
        params = known.params
        yield from tried(WALLET, "trainer's hotkey", lambda: require_trainer_hotkey(params, ours))


def bucket_settings(settings: Settings, known: Known) -> Iterator[Finding]:
    """Whether the settings name a bucket of this network, before any store is asked."""
    if known.params is None:
        yield not_asked(BUCKET, "settings", "the network's parameters say which kind of bucket it has")
        return
    params = known.params
    yield from tried(BUCKET, "settings", lambda: directory_on(settings, params, wall_clock_ms))


def bucket(settings: Settings, known: Known) -> Iterator[Finding]:
    """What `grail storage doctor` tries."""
    if known.params is None or known.chain is None:
        yield not_asked(BUCKET, "bucket", "parameters and chain are needed for it")
        return
    from grail_core.examination.bucket import committed, examine

    try:
        known.directory = directory = open_directory(settings, known.params, known.chain)
        found = examine(directory, known.chain.now_ms)
    except GrailError as error:
        yield broken(BUCKET, "bucket", error)
        return
    if known.signer is not None:
        found.append(committed(settings, known.chain, directory, known.params))
    for one in found:
        if not one.asked:
            yield not_asked(BUCKET, one.name, one.detail)
        elif one.ok:
            yield ok(BUCKET, one.name, one.detail)
        elif one.cause != "not registered":  # which is told of the chain
            told = f"{one.cause}: {one.detail}" if one.cause else one.detail
            yield broken(BUCKET, one.name, StorageError(told, hint="see `grail storage doctor`"))
