"""Makes the network a plan describes: keys, wallets, chain, registrations, stake, network parameters.

Everything follows from the seed, and every step may be repeated, so that a start that was killed half way is simply taken
again. Roles learn all of it through their public settings alone (`processes.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grail_core.beacon.development import DevelopmentKey
from grail_core.chain.base import Metagraph
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.disk import write_atomically
from grail_core.errors import ConfigurationError, DiskFullError
from grail_core.keys import LocalSigner, write_wallet
from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.types import Block
from tooling.localnet.newcomer import Newcomer, chain_rules
from tooling.localnet.plan import S3, Layout, Plan
from tooling.localnet.remote_stores import RemoteStores, remote_stores_of
from tooling.localnet.report.facts import MinerIdentity

COLDKEY = "localnet"
GENESIS_MS = 1_767_225_600_000
"""Where a virtual clock begins, the first second of 2026: beacon rounds follow from block times, so a seed fixes them too."""
VALIDATOR_STAKE = 1_000_000_000_000  # rao, the same for each
TRAINER = "trainer"
BURN = "burn"
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
    return hashlib.sha256("\0".join(("grail/localnet", str(seed), *parts)).encode()).digest()


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
        mode = _clock_mode(plan)
        chain = LocalChain.create(
            layout.chain,
            seed=derive_seed(plan.seed, "chain").hex(),
            netuid=params.netuid,
            block_time_ms=params.block_time_ms,
            genesis_time_ms=GENESIS_MS if mode is not ClockMode.REAL else None,
            clock=mode,
            factor=plan.clock_rate,
            rules=chain_rules(commit_reveal=plan.commit_reveal, full_at=len(signers) if plan.newcomer else None),
        )
    write_atomically(layout.network, encoded)
    _register(chain, plan, signers)
    # Registrations come into force with the block after the one they were made in, and roles read final blocks.
    while (joined := _joined(chain, signers)) is None:
        if plan.real_time:
            chain.wait_for_block(Block(chain.current_block() + 1), stop=threading.Event(), finalised=True)
        else:
            chain.advance(1)
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
    return DevelopmentKey.from_seed(derive_seed(seed, "beacon"))


def _keys(plan: Plan, layout: Layout) -> dict[str, LocalSigner]:
    names = [TRAINER, *plan.validator_names(), *(name for name, _ in plan.miner_strategies())]
    cold = derive_seed(plan.seed, "coldkey")
    signers = {BURN: LocalSigner.from_seed(derive_seed(plan.seed, "hotkey", BURN))}
    for name in names:
        hot = derive_seed(plan.seed, "hotkey", name)
        signers[name] = write_wallet(layout.wallets, COLDKEY, name, coldkey_seed=cold, hotkey_seed=hot)
    return signers


def _remote_stores(plan: Plan, layout: Layout, names: list[str]) -> RemoteStores | None:
    """Made by the first start and the same in all: the network's identity contains where they are."""
    if plan.store != S3:
        return None
    if not layout.remote_stores.exists():
        seed = derive_seed(plan.seed, "stores")
        line = _port_of(seed + b"line") if plan.store_faults is not None else None
        RemoteStores.make(seed, names, _port_of(seed), line=line).write(layout.remote_stores)
    return remote_stores_of(layout)


def _port_of(seed: bytes) -> int:
    """The seed's own port where it is free, since a network's identity contains it; else any."""
    wanted = 20_000 + int.from_bytes(hashlib.sha256(seed).digest()[:4], "big") % 10_000
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", wanted))
        return wanted
    return free_port()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _parameters(plan: Plan, trainer: LocalSigner, store_hosts: tuple[str, ...]) -> NetworkParameters:
    beacon = BeaconChain(
        public_key=beacon_key(plan.seed).public_key,
        genesis_time_s=LOCALNET.beacon.genesis_time_s,
        period_s=LOCALNET.beacon.period_s,
    )
    return dataclasses.replace(
        LOCALNET,
        beacon=beacon,
        trainer_hotkey=trainer.hotkey,
        block_time_ms=plan.block_time_ms,
        name="localnet",
        store_hosts=store_hosts,
    )


def _register(chain: LocalChain, plan: Plan, signers: Mapping[str, LocalSigner]) -> None:
    """Registrations in a fixed order, so that UIDs follow from the plan: the burn UID first."""
    for name, signer in signers.items():
        done = chain.nonce(signer.hotkey)  # how many of its extrinsics the chain has
        if done == 0:
            chain.register(signer)
        if done <= 1 and name in plan.validator_names():
            chain.stake(signer, VALIDATOR_STAKE)


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
