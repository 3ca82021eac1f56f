"""From settings to the outside world: network parameters, chain, buckets, beacon and keys.

One factory each, all of them lazy about heavy imports. Whatever is wrong with a deployment is found here, with the setting
that is to blame and the line that mends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grail_core.beacon.base import Beacon
from grail_core.chain.base import Chain, Neuron
from grail_core.clock import WallClock, wall_clock_ms
from grail_core.errors import ConfigurationError, NotRegisteredError
from grail_core.participant.network_file import is_url, read_file, read_url, require_digest, require_pinned
from grail_core.participant.settings import Settings
from grail_core.protocol.network import LOCALNET, NETWORKS, SUBNET_81, UNSET_HOTKEY, NetworkParameters
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Hotkey
from grail_core.storage.base import StoreDirectory

if TYPE_CHECKING:
    from grail_core.checkpoints.source import CheckpointSource
    from grail_core.keys import LocalSigner
    from grail_core.storage.s3_directory import S3Directory

_LOCAL_CHAIN = "`grail devnet init` makes one, and `grail devnet env NAME` prints the settings of its roles"
BEACON_PATIENCE_PERIODS = 3  # a role asks for a round less than one period before its time


DEVNET_HINT = (
    "to try a role on this machine: `grail devnet init` makes a network, `hatch run localnet` in a source tree runs one"
)


def network_parameters(settings: Settings) -> NetworkParameters:
    """The network of the settings: a named one, or the one described by a JSON file or URL.

    Raises:
        ConfigurationError: as `parameters_of`, and a network without a trainer.
    """
    params = parameters_of(settings)
    if params.trainer_hotkey == UNSET_HOTKEY:
        pattern = " is a pattern for networks on one machine, which have files of their own: it" if params == LOCALNET else ""
        raise ConfigurationError(
            f"network {params.name}{pattern} names no trainer hotkey, so no checkpoint can be trusted",
            where="GRAIL_NETWORK",
            hint=f"give the parameters file that the network's operator publishes, or its https URL; {DEVNET_HINT}",
        )
    return params


def parameters_of(settings: Settings) -> NetworkParameters:
    """The network of the settings, with or without a trainer. Errors: as `parameters_named`."""
    digest = settings.network_digest
    if is_url(settings.network):
        require_pinned(settings.network, digest, "GRAIL_NETWORK")
        return read_url(settings.network, where="GRAIL_NETWORK", digest=digest, cache=settings.cache_dir)
    params = parameters_named(settings.network)
    require_digest(params, digest, settings.network)
    return params


def parameters_named(name: str, *, where: str = "GRAIL_NETWORK") -> NetworkParameters:
    """Of a named network, or of a JSON file, with or without a trainer.

    Args:
        where: the setting or option that names it.

    Raises:
        ConfigurationError: no such network, or a file that does not parse.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if Path(name).is_file():
        return read_file(name, where=where)
    if where == "GRAIL_NETWORK":  # no named network has a trainer in this version, so none is offered
        hint = f"the path or https URL of a parameters file, or {SUBNET_81.name} once it names a trainer; {DEVNET_HINT}"
    else:
        hint = f"one of {', '.join(sorted(NETWORKS))}, or the path of a parameters file"
    raise ConfigurationError(
        f"there is no {'such file of network parameters' if '/' in name else 'network of this name'}: {name[:200]}",
        where=where,
        hint=hint,
    )


def open_chain(settings: Settings) -> Chain:
    """The chain that BT_NETWORK names: `local` is the development chain in the file BT_CHAIN_ENDPOINT."""
    if settings.bt_network == "local":
        from grail_core.chain.development.local import LocalChain

        if not settings.bt_chain_endpoint:
            raise ConfigurationError("a local chain needs its file", where="BT_CHAIN_ENDPOINT", hint=_LOCAL_CHAIN)
        return LocalChain.open(settings.bt_chain_endpoint)
    from grail_core.chain.bittensor.adapter import BittensorChain

    return BittensorChain.connect(settings.bt_chain_endpoint or settings.bt_network, netuid=settings.netuid)


def open_directory(settings: Settings, network: NetworkParameters, chain: Chain) -> StoreDirectory:
    """Own and others' buckets: a shared folder where GRAIL_STORAGE_ROOT is set, else R2 or S3.

    A shared folder tells the time by the chain's clock, so that store times and block times of one machine compare.
    """
    return directory_on(settings, network, chain.now_ms)


def directory_on(settings: Settings, network: NetworkParameters, clock: WallClock) -> StoreDirectory:
    """`open_directory` for whoever has the network's clock and no chain."""
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
        return FilesystemDirectory(settings.storage_root, settings.storage_bucket, clock=clock)
    return open_s3_directory(settings, network)


def open_reader(settings: Settings, network: NetworkParameters, chain: Chain) -> StoreDirectory:
    """Others' buckets, for whoever has none of its own: a remote network's need no setting but the network."""
    if settings.storage_root is not None and not settings.storage_bucket:
        settings = settings.model_copy(update={"storage_bucket": "reader"})  # nothing is written to it
    if settings.storage_root is None and network.store_hosts and not settings.r2_bucket_id:
        from grail_core.participant.buckets import PublicBuckets

        return PublicBuckets(settings, network)
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
        raise ConfigurationError(
            "the bucket's settings are not complete",
            where=", ".join(missing),
            hint="set them; docs/operations.md, Storage, says what the bucket's two keys may do",
        )
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
        ConfigurationError: --no-drand on a network whose windows need a round, or the other way round.
    """
    try:
        network = parameters_of(settings)
    except ConfigurationError:
        return  # the start says so, with all else that is missing
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


def network_clock(settings: Settings) -> WallClock:
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
            hint=_registering(settings, chain.netuid),
        )
    return neuron


def permit_hint(settings: Settings, netuid: int) -> str:
    """What a hotkey without a validator permit lacks."""
    if settings.bt_network == "local":
        folder = Path(settings.bt_chain_endpoint).parent
        return (
            f"a development chain gives it from 1 TAO on: grail devnet fund {settings.wallet_hot} --dir {folder}; "
            "blocks must come (`grail devnet up`, or `grail devnet advance`)"
        )
    return (
        f"stake to it on netuid {netuid}: the chain gives permits to the hotkeys with the most stake, so many as its "
        f"hyperparameter max_validators says (btcli subnets hyperparameters {netuid})"
    )


def _registering(settings: Settings, netuid: int) -> str:
    if settings.bt_network == "local":
        folder = Path(settings.bt_chain_endpoint).parent
        return f"a development network registers who is added to it: grail devnet add ROLE {settings.wallet_hot} --dir {folder}"
    return (
        f"btcli subnets register --netuid {netuid} --wallet {settings.wallet_cold} "
        f"--wallet-hotkey {settings.wallet_hot} --wallet-path {settings.wallet_path} --network {_network_of(settings)}"
    )


def require_permit(neuron: Neuron, settings: Settings, netuid: int) -> None:
    """Raises NotRegisteredError: this hotkey may set no weights."""
    if not neuron.validator_permit:
        from grail_core.keys import ss58

        raise NotRegisteredError(
            "this hotkey has no validator permit",
            where=ss58(neuron.hotkey),
            hint=permit_hint(settings, netuid),
        )


def require_trainer_hotkey(network: NetworkParameters, hotkey: Hotkey) -> None:
    """Raises ConfigurationError: it is not the one that the network names as its trainer's."""
    if hotkey != network.trainer_hotkey:
        from grail_core.keys import ss58

        raise ConfigurationError(
            "this hotkey is not the trainer of the network",
            where=f"hotkey {ss58(hotkey)}, the network names {ss58(network.trainer_hotkey)}",
            hint="use the wallet of the network's trainer (BT_WALLET_HOT), or the right GRAIL_NETWORK",
        )


def require_chains_netuid(chain: Chain, settings: Settings, network: NetworkParameters) -> None:
    """Raises ConfigurationError: the chain is of another subnet. A development chain has its netuid in its file."""
    if settings.bt_network != "local":
        require_netuid(chain.netuid, network)
    elif chain.netuid != network.netuid:
        raise ConfigurationError(
            f"the development chain is of netuid {chain.netuid}, and network {network.name} is on netuid {network.netuid}",
            where=f"BT_CHAIN_ENDPOINT={settings.bt_chain_endpoint}",
            hint="they are of two networks: set BT_CHAIN_ENDPOINT and GRAIL_NETWORK to one's, as `grail devnet env` does",
        )


def require_netuid(asked: int, network: NetworkParameters) -> None:
    """Raises ConfigurationError: the chain is asked for another subnet than the network is on."""
    if asked != network.netuid:
        raise ConfigurationError(
            f"the chain is asked for netuid {asked}, and network {network.name} is on netuid {network.netuid}",
            where="NETUID",
            hint="set NETUID to the network's, or GRAIL_NETWORK to the file of this subnet's network",
        )


def _network_of(settings: Settings) -> str:
    """What `btcli` calls the network: its name, or the first endpoint without what may be a provider's key."""
    if not settings.bt_chain_endpoint:
        return settings.bt_network
    from grail_core.chain.bittensor.endpoints import name_of

    url = settings.bt_chain_endpoint.partition(",")[0].strip()
    return f"{url.partition('://')[0]}://{name_of(url)}"
