"""Makes the network a plan describes: keys, wallets, chain, registrations, stake, network parameters.

Everything follows from the seed, and every step may be repeated (`grail_core.devnet.network`, of which `grail devnet` is made
too), so that a start that was killed half way is simply taken again. Roles learn all of it through their public settings alone
(`processes.py`).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grail_core.beacon.development import DevelopmentKey
from grail_core.chain.base import Metagraph
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.devnet import network as devnet
from grail_core.devnet.network import BURN, VALIDATOR_STAKE, derived_seed, own_port
from grail_core.disk import write_atomically
from grail_core.errors import ConfigurationError, DiskFullError
from grail_core.keys import LocalSigner
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.types import Block
from tooling.localnet.newcomer import Newcomer, chain_rules
from tooling.localnet.plan import S3, Layout, Plan
from tooling.localnet.remote_stores import RemoteStores, remote_stores_of
from tooling.localnet.report.facts import MinerIdentity

COLDKEY = "localnet"
TRAINER = "trainer"
LEAST_FREE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Network:
    """A network that is ready to be joined."""

    params: NetworkParameters
    chain: LocalChain
    signers: Mapping[str, LocalSigner]  # by process name
    uids: Mapping[str, int]
    miners: tuple[MinerIdentity, ...]

    @property
    def network_id(self) -> bytes:
        return self.params.network_id(self.chain.genesis_hash)


def derive_seed(seed: int, *parts: str) -> bytes:
    """32 bytes for one purpose of this run."""
    return derived_seed("grail/localnet", str(seed), *parts)


def prepare_folder(layout: Layout) -> None:
    """Make the folder of the run, and see that it can be written and has room.

    Raises:
        ConfigurationError, DiskFullError.
    """
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        probe = layout.root / ".probe"
        probe.write_bytes(b"localnet")
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError("no space is left for the run", where=str(layout.root), hint="choose another --out") from error
        raise ConfigurationError(
            f"the output folder cannot be written: {error.strerror}", where=str(layout.root), hint="choose another --out"
        ) from error
    status = os.statvfs(layout.root)
    free = status.f_bavail * status.f_frsize
    if free < LEAST_FREE_BYTES:
        raise DiskFullError(
            f"only {free / 2**20:.0f} MiB are free, a run needs {LEAST_FREE_BYTES // 2**20}",
            where=str(layout.root),
            hint="free some space, or choose another --out",
        )


def make_network(plan: Plan, layout: Layout) -> Network:
    """Create the network of this plan, or open the one that is there and let its clock go on where it stopped."""
    for folder in (layout.logs, layout.store, layout.evaluations):
        folder.mkdir(parents=True, exist_ok=True)
    signers = _keys(plan, layout)
    stores = _remote_stores(plan, layout, [name for name in signers if name != BURN])
    params = _parameters(plan, signers[TRAINER], (stores.url,) if stores is not None else ())
    encoded = json.dumps(params.to_json(), indent=1).encode()
    if layout.chain.exists():
        chain = LocalChain.open(layout.chain)
        chain.rebase_clock()
        if layout.network.exists() and json.loads(layout.network.read_bytes()) != params.to_json():
            raise ConfigurationError(
                "the network parameters of this folder are not those of this version or plan",
                where=str(layout.network),
                hint="choose another folder with --out",
            )
    else:
        chain = devnet.make_chain(
            layout.chain,
            params,
            seed=derive_seed(plan.seed, "chain").hex(),
            clock=_clock_mode(plan),
            factor=plan.clock_rate,
            rules=chain_rules(commit_reveal=plan.commit_reveal, full_at=len(signers) if plan.newcomer else None),
        )
    write_atomically(layout.network, encoded)
    devnet.register(chain, signers, dict.fromkeys(plan.validator_names(), VALIDATOR_STAKE))
    while (joined := _joined(chain, signers)) is None:
        devnet.one_block_more(chain)
    known = {neuron.hotkey: neuron.uid for neuron in joined.neurons}
    uids = {name: known[signer.hotkey] for name, signer in signers.items()}
    miners = tuple(MinerIdentity(name, signers[name].ss58, uids[name], strategy) for name, strategy in plan.miner_strategies())
    return Network(params, chain, signers, uids, miners)


def _clock_mode(plan: Plan) -> ClockMode:
    if not plan.real_time:
        return ClockMode.VIRTUAL
    return ClockMode.REAL if plan.clock_rate == 1.0 else ClockMode.FAST


def _joined(chain: LocalChain, signers: Mapping[str, LocalSigner]) -> Metagraph | None:
    """As of the first block with everybody in it, the same in every start; None until it is final. A miner may lose its UID
    later (`newcomer`)."""
    for number in range(chain.finalised_block() + 1):
        metagraph = chain.metagraph(Block(number))
        if {signer.hotkey for signer in signers.values()} <= {neuron.hotkey for neuron in metagraph.neurons}:
            return metagraph
    return None


def newcomer_of(plan: Plan, network: Network) -> Newcomer | None:
    """Who takes a miner's UID, where the plan has one."""
    if not plan.newcomer:
        return None
    signer = LocalSigner.from_seed(derive_seed(plan.seed, "hotkey", "newcomer"))
    validators = [network.signers[name].hotkey for name in plan.validator_names()]
    return Newcomer(network.chain, network.params, signer, validators)


def beacon_key(seed: int) -> DevelopmentKey:
    return devnet.beacon_key(partial(derive_seed, seed))


def _keys(plan: Plan, layout: Layout) -> dict[str, LocalSigner]:
    """In the order of their UIDs: the burn UID first."""
    seed_of = partial(derive_seed, plan.seed)
    names = [TRAINER, *plan.validator_names(), *(name for name, _ in plan.miner_strategies())]
    return {BURN: devnet.burn_key(seed_of), **devnet.make_wallets(layout.wallets, COLDKEY, names, seed_of)}


def _remote_stores(plan: Plan, layout: Layout, names: list[str]) -> RemoteStores | None:
    """Made by the first start and the same in all: the network's identity contains where they are, so each seed has a port."""
    if plan.store != S3:
        return None
    if not layout.remote_stores.exists():
        seed = derive_seed(plan.seed, "stores")
        line = own_port(seed + b"line") if plan.store_faults is not None else None
        RemoteStores.make(seed, names, own_port(seed), line=line).write(layout.remote_stores)
    return remote_stores_of(layout)


def _parameters(plan: Plan, trainer: LocalSigner, store_hosts: tuple[str, ...]) -> NetworkParameters:
    return devnet.development_parameters(
        "localnet",
        key=beacon_key(plan.seed),
        trainer=trainer.hotkey,
        block_time_ms=plan.block_time_ms,
        netuid=LOCALNET.netuid,
        store_hosts=store_hosts,
    )


def folder_of(model: str) -> Path:
    """A model folder given on the command line, checked as far as can be done without loading it.

    Raises:
        ConfigurationError: no folder, or no model in it.
    """
    from grail_core.errors import CheckpointError

    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "there is no model in this folder (no config.json)",
            where=str(folder),
            hint="give a Transformers folder with config.json, tokenizer.json and *.safetensors, or leave --model out",
        )
    try:
        json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the model's config.json cannot be read: {error}", where=str(folder)) from error
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            "there are no weights in this folder (no *.safetensors)", where=str(folder), hint="choose another model folder"
        )
    return folder
