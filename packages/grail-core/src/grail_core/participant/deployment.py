"""From settings to the outside world: network parameters, chain, buckets, beacon and keys.

One factory each, all of them lazy about heavy imports. Whatever is wrong with a deployment is found here, with the setting
that is to blame and the line that mends it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grail_core.beacon.base import Beacon
from grail_core.chain.base import Chain, Neuron
from grail_core.clock import wall_clock_ms
from grail_core.errors import ConfigurationError, NotRegisteredError
from grail_core.participant.settings import Settings
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.protocol.network import NETWORKS, UNSET_HOTKEY, NetworkParameters
from grail_core.protocol.signer import Signer
from grail_core.storage.base import StoreDirectory

if TYPE_CHECKING:
    from grail_core.checkpoints.source import CheckpointSource
    from grail_core.keys import LocalSigner
    from grail_core.storage.s3_directory import S3Directory

_MAX_NETWORK_FILE = 64 * 1024
BEACON_PATIENCE_PERIODS = 3  # a role asks for a round less than one period before its time


def network_parameters(settings: Settings) -> NetworkParameters:
    """The named network, or the one described by a JSON file.

    Raises:
        ConfigurationError: no such network, a file that does not parse, or a network without a trainer.
    """
    params = parameters_named(settings.network)
    if params.trainer_hotkey == UNSET_HOTKEY:
        raise ConfigurationError(
            f"network {params.name} names no trainer hotkey, so no checkpoint can be trusted",
            where="GRAIL_NETWORK",
            hint="use the parameters file that the network's operator publishes",
        )
    return params


def parameters_named(name: str, *, where: str = "GRAIL_NETWORK") -> NetworkParameters:
    """Of a named network, or of a JSON file, with or without a trainer.

    Args:
        where: the setting or option that names it.

    Raises:
        ConfigurationError: no such network, or a file that does not parse.
    """
    if name in NETWORKS:
        params = NETWORKS[name]
    elif Path(name).is_file():
        try:
            raw = Path(name).read_bytes()
            if len(raw) > _MAX_NETWORK_FILE:
                raise ValueError(f"{len(raw)} bytes")
            value = json.loads(raw)
            _require_unchained(value)
            params = NetworkParameters.from_json(value)
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"the network file does not parse: {error}",
                where=name,
                hint=f"check {where}; a file of an earlier version lacks members: get the network's present one",
            ) from error
        _require_known_classes(params, name)
    else:
        raise ConfigurationError(
            "there is no such file of network parameters" if "/" in name else "there is no network of this name",
            where=where,
            hint=f"one of {', '.join(sorted(NETWORKS))}, or the path of a parameters file",
        )
    return params


def _require_unchained(value: object) -> None:
    """Records carry a round's signature of 48 bytes alone: a beacon of another scheme could not be verified from them."""
    beacon = value.get("beacon") if isinstance(value, dict) else None
    if isinstance(beacon, dict) and ("scheme" in beacon or len(str(beacon.get("public_key", ""))) == 96):
        raise ValueError(
            "$network.beacon: a network's beacon is of the scheme bls-unchained-g1-rfc9380 (quicknet), with a key of 96 bytes; "
            "rounds of other chains are verified by `grail beacon round` alone"
        )


def _require_known_classes(params: NetworkParameters, path: str) -> None:
    """The protocol's list is closed: a name that is not on it would admit nobody, and every miner would be told so alone."""
    unknown = {*params.proof_classes, *params.generation_classes, *params.validator_classes} - NUMERICS_CLASSES.keys()
    if unknown:
        raise ConfigurationError(
            f"the network file names numerics classes that there are not: {', '.join(sorted(unknown))}",
            where=path,
            hint=f"classes of this version: {', '.join(NUMERICS_CLASSES)}",
        )


def open_chain(settings: Settings) -> Chain:
    """The chain that BT_NETWORK names: `local` is the development chain in the file BT_CHAIN_ENDPOINT."""
    if settings.bt_network == "local":
        from grail_core.chain.development.local import LocalChain

        if not settings.bt_chain_endpoint:
            raise ConfigurationError("a local chain needs its file", where="BT_CHAIN_ENDPOINT", hint="start localnet first")
        return LocalChain.open(settings.bt_chain_endpoint)
    from grail_core.chain.bittensor.adapter import BittensorChain

    return BittensorChain.connect(settings.bt_chain_endpoint or settings.bt_network, netuid=settings.netuid)


def open_directory(settings: Settings, network: NetworkParameters, chain: Chain) -> StoreDirectory:
    """Own and others' buckets: a shared folder where GRAIL_STORAGE_ROOT is set, else R2 or S3.

    A shared folder tells the time by the chain's clock, so that store times and block times of one machine compare.
    """
    if settings.storage_root is not None:
        from grail_core.storage.filesystem import FilesystemDirectory

        if network.store_hosts:
            raise ConfigurationError(
                f"network {network.name} uses remote buckets, not a folder",
                where="GRAIL_STORAGE_ROOT",
                hint="unset it and set R2_*",
            )
        if not settings.storage_root.is_dir():
            raise ConfigurationError(
                "there is no such folder of buckets", where=str(settings.storage_root), hint="check GRAIL_STORAGE_ROOT"
            )
        if not settings.storage_bucket:
            raise ConfigurationError(
                "an own bucket is needed",
                where="GRAIL_STORAGE_BUCKET",
                hint="name one: 3 to 63 lower-case letters, digits, '.' and '-'",
            )
        return FilesystemDirectory(settings.storage_root, settings.storage_bucket, clock=chain.now_ms)
    return open_s3_directory(settings, network)


def open_reader(settings: Settings, network: NetworkParameters, chain: Chain) -> StoreDirectory:
    """Others' buckets, for whoever has none of its own."""
    if settings.storage_root is not None and not settings.storage_bucket:
        settings = settings.model_copy(update={"storage_bucket": "reader"})  # nothing is written to it
    return open_directory(settings, network, chain)


@dataclass(frozen=True)
class NetworkReader:
    """Who looks at a network's checkpoints and takes no part in it: no key, no bucket."""

    params: NetworkParameters
    chain: Chain
    checkpoints: CheckpointSource


def open_checkpoints(settings: Settings) -> NetworkReader:
    """The checkpoints of the settings' network, held against what this machine saw before.

    Raises:
        ConfigurationError, ChainError: as what it opens.
    """
    from grail_core.checkpoints.source import CheckpointSource
    from grail_core.participant.state import network_state

    params = network_parameters(settings)
    chain = open_chain(settings)
    network_id = params.network_id(chain.genesis_hash)
    source = CheckpointSource(
        chain,
        open_reader(settings, params, chain),
        params,
        network_id,
        settings.cache_dir,
        seen=network_state(settings.state_dir, params, network_id) / "seen.json",
        cache_limit_bytes=settings.checkpoint_cache_gib << 30,
    )
    return NetworkReader(params, chain, source)


def open_s3_directory(settings: Settings, network: NetworkParameters) -> S3Directory:
    """Buckets of a network that uses R2 or S3.

    Raises:
        ConfigurationError: naming every variable that is missing or does not fit the network.
    """
    from grail_core.storage.commitment import BucketAddress, Credentials, endpoint_of
    from grail_core.storage.s3_directory import S3Directory

    if not network.store_hosts:
        raise ConfigurationError(
            f"network {network.name} has no store hosts: it uses folders",
            where="GRAIL_STORAGE_ROOT",
            hint="set GRAIL_STORAGE_ROOT and GRAIL_STORAGE_BUCKET",
        )
    values = {
        "R2_BUCKET_ID": settings.r2_bucket_id,
        "R2_ACCOUNT_ID": settings.r2_account_id,
        "R2_READ_ACCESS_KEY_ID": settings.r2_read_access_key_id,
        "R2_READ_SECRET_ACCESS_KEY": settings.r2_read_secret_access_key.get_secret_value(),
        "R2_WRITE_ACCESS_KEY_ID": settings.r2_write_access_key_id.get_secret_value(),
        "R2_WRITE_SECRET_ACCESS_KEY": settings.r2_write_secret_access_key.get_secret_value(),
    }
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise ConfigurationError("the bucket's settings are not complete", where=", ".join(missing), hint="set them")
    index = 0
    if settings.r2_endpoint_url:
        endpoints = [endpoint_of(values["R2_ACCOUNT_ID"], host) for host in network.store_hosts]
        if settings.r2_endpoint_url.rstrip("/") not in endpoints:
            raise ConfigurationError(
                f"the endpoint is not one that the network allows ({', '.join(endpoints)})",
                where="R2_ENDPOINT_URL",
                hint="others read from these endpoints only; leave it unset for the first",
            )
        index = endpoints.index(settings.r2_endpoint_url.rstrip("/"))
    read = Credentials(values["R2_READ_ACCESS_KEY_ID"], values["R2_READ_SECRET_ACCESS_KEY"])
    write = Credentials(values["R2_WRITE_ACCESS_KEY_ID"], values["R2_WRITE_SECRET_ACCESS_KEY"])
    address = BucketAddress(index, values["R2_ACCOUNT_ID"], values["R2_BUCKET_ID"], read)
    return S3Directory(network.store_hosts, address, write, region=settings.r2_region)


def require_beacon_choice(settings: Settings, *, use_drand: bool) -> None:
    """What the operator says of the beacon against the network's policy, which decides: nobody falls back silently.

    Raises:
        ConfigurationError: --no-drand on a network whose windows need a round, or the other way round; errors of
            `parameters_named`.
    """
    network = parameters_named(settings.network)
    if use_drand and network.beacon_policy == "off":
        raise ConfigurationError(
            f"network {network.name} has no beacon: its seeds follow from block hashes alone",
            where="--use-drand",
            hint="say so with --no-drand, if this is the network you mean (GRAIL_NETWORK)",
        )
    if not use_drand and network.beacon_policy == "required":
        raise ConfigurationError(
            f"network {network.name} requires its beacon: without a round of it every window is void",
            where="--no-drand",
            hint="leave it out; it is for networks whose parameters say beacon_policy off",
        )


def beacon_relays(settings: Settings, network: NetworkParameters) -> tuple[str, ...]:
    """The relays of GRAIL_BEACON_URLS. Errors: ConfigurationError where the network needs one and none is set."""
    relays = tuple(url.strip() for url in settings.beacon_urls.split(",") if url.strip())
    if not relays and network.beacon_policy == "required":
        raise ConfigurationError(
            "no beacon relay is set", where="GRAIL_BEACON_URLS", hint="give at least one drand relay's URL"
        )
    return relays


def open_beacon(settings: Settings, network: NetworkParameters) -> Beacon:
    from grail_core.beacon.drand import DrandBeacon

    relays = beacon_relays(settings, network)
    clock = network_clock(settings)
    patience = BEACON_PATIENCE_PERIODS * network.beacon.period_s if clock is wall_clock_ms else None
    return DrandBeacon(network.beacon, relays, settings.cache_dir / "beacon", clock=clock, patience_s=patience)


def network_clock(settings: Settings) -> Callable[[], int]:
    """Unix milliseconds as the network sees them: a development chain's time differs from the wall clock after a stop."""
    if settings.bt_network == "local" and settings.bt_chain_endpoint:
        from grail_core.chain.development.local import LocalChain

        return LocalChain.open(settings.bt_chain_endpoint).now_ms
    return wall_clock_ms


def load_signer(settings: Settings) -> LocalSigner:
    """The hotkey of the wallet that BT_WALLET_* name."""
    from grail_core.keys import load_hotkey

    return load_hotkey(settings.wallet_path, settings.wallet_cold, settings.wallet_hot)


def require_registered(chain: Chain, signer: Signer, settings: Settings) -> Neuron:
    """This hotkey's place on the subnet.

    Raises:
        NotRegisteredError: with the line that registers it.
    """
    neuron = chain.metagraph().by_hotkey(signer.hotkey)
    if neuron is None:
        from grail_core.keys import ss58

        raise NotRegisteredError(
            f"hotkey {ss58(signer.hotkey)} is not registered on netuid {chain.netuid}",
            where=f"wallet {settings.wallet_cold}/{settings.wallet_hot}",
            hint=f"btcli subnets register --netuid {chain.netuid} --wallet {settings.wallet_cold} "
            f"--wallet-hotkey {settings.wallet_hot} --wallet-path {settings.wallet_path} --network {_network_of(settings)}",
        )
    return neuron


def _network_of(settings: Settings) -> str:
    """What `btcli` calls the network: its name, or the first endpoint without what may be a provider's key."""
    if settings.bt_network == "local" or not settings.bt_chain_endpoint:
        return settings.bt_network
    from grail_core.chain.bittensor.endpoints import name_of

    url = settings.bt_chain_endpoint.partition(",")[0].strip()
    return f"{url.partition('://')[0]}://{name_of(url)}"
