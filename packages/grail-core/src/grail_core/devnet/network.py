"""What a network on one machine is made of: keys of a seed, wallets, a chain, registrations, stake, network parameters.

Every step may be repeated, so that a start that was killed half way is simply taken again. `grail devnet` and localnet both
make their networks with this; what kinds of participants there are, and where their folder is, is theirs to say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from grail_core.beacon.development import DevelopmentKey
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.chain.development.state import ChainRules
from grail_core.disk import storage_errors, sync_folder
from grail_core.errors import ChainError
from grail_core.keys import LocalSigner, write_wallet
from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.types import Block, Hotkey

GENESIS_MS = 1_767_225_600_000
"""Where a clock begins that does not follow the wall, the first second of 2026: beacon rounds follow from block times, so that
a seed fixes them too."""
BURN = "burn"
"""The hotkey of UID 0, which burns: it has no wallet, since nobody runs it."""
VALIDATOR_STAKE = 1_000_000_000_000
"""Rao, 1,000 TAO; the chain gives a validator permit from `ChainRules.permit_stake`, 1 TAO, on."""

SeedOf = Callable[..., bytes]
"""32 bytes for one purpose, which one to three words name."""


def derived_seed(*parts: str) -> bytes:
    """32 bytes that follow from texts alone."""
    return hashlib.sha256("\0".join(parts).encode()).digest()


def beacon_key(seed_of: SeedOf) -> DevelopmentKey:
    return DevelopmentKey.from_seed(seed_of("beacon"))


def burn_key(seed_of: SeedOf) -> LocalSigner:
    return LocalSigner.from_seed(seed_of("hotkey", BURN))


def make_wallets(folder: Path, coldkey: str, names: Iterable[str], seed_of: SeedOf) -> dict[str, LocalSigner]:
    """A hotkey for each name under one coldkey, in bittensor's layout. Errors: as `write_wallet`."""
    cold = seed_of("coldkey")
    return {name: write_wallet(folder, coldkey, name, coldkey_seed=cold, hotkey_seed=seed_of("hotkey", name)) for name in names}


def development_parameters(
    name: str, *, key: DevelopmentKey, trainer: Hotkey, block_time_ms: int, netuid: int, store_hosts: tuple[str, ...] = ()
) -> NetworkParameters:
    """Localnet's rules with this beacon key, trainer and pace. `store_hosts` empty: buckets are folders."""
    beacon = BeaconChain(key.public_key, LOCALNET.beacon.genesis_time_s, LOCALNET.beacon.period_s)
    return dataclasses.replace(
        LOCALNET,
        name=name,
        netuid=netuid,
        beacon=beacon,
        trainer_hotkey=trainer,
        block_time_ms=block_time_ms,
        store_hosts=store_hosts,
    )


def make_chain(
    path: Path,
    params: NetworkParameters,
    *,
    seed: str,
    clock: ClockMode,
    factor: float = 1.0,
    rules: ChainRules | None = None,
) -> LocalChain:
    """The chain of these parameters at its genesis block: with the real clock that is now, else `GENESIS_MS`.

    It gets its name once it is whole, so that whoever is killed meanwhile, or whose disk is full, leaves none. One process at a
    time makes a chain at a path.

    Raises:
        ChainError, StorageError: there is one, or the folder cannot be written.
    """
    if path.exists():
        raise ChainError("there is a chain at this path already", where=str(path), hint="open it, or choose a new folder")
    unfinished = path.with_name(f".{path.name}.unfinished")
    with storage_errors(path):
        for ending in ("", "-wal", "-shm", "-journal"):
            unfinished.with_name(unfinished.name + ending).unlink(missing_ok=True)
    LocalChain.create(
        unfinished,
        seed=seed,
        netuid=params.netuid,
        block_time_ms=params.block_time_ms,
        genesis_time_ms=None if clock is ClockMode.REAL else GENESIS_MS,
        clock=clock,
        factor=factor,
        rules=rules,
    ).close()
    with storage_errors(path):
        os.replace(unfinished, path)
        sync_folder(path.parent)
    return LocalChain.open(path)


def register(chain: LocalChain, signers: Mapping[str, LocalSigner], stakes: Mapping[str, int]) -> None:
    """Registrations in the order given, so that UIDs follow from it, each with its stake (rao); those that were made are left.

    What is done is read from how many extrinsics of a hotkey the chain has, since its own calls come after these two. Another
    process may be at it too.
    """
    for name, signer in signers.items():
        if chain.nonce(signer.hotkey) == 0:
            try:
                chain.register(signer)
            except ChainError:
                if chain.nonce(signer.hotkey) == 0:
                    raise
        if name in stakes and chain.nonce(signer.hotkey) == 1:
            chain.stake(signer, stakes[name])


def one_block_more(chain: LocalChain) -> None:
    """Registrations come into force with the block after the one they were made in, and roles read final blocks."""
    if chain.clock_mode is ClockMode.VIRTUAL:
        chain.advance(1)
    else:
        chain.wait_for_block(Block(chain.current_block() + 1), stop=threading.Event(), finalised=True)


def own_port(seed: bytes) -> int:
    """The seed's own port of 127.0.0.1 where it is free, below those that systems give to connections; else any."""
    wanted = 20_000 + int.from_bytes(hashlib.sha256(seed).digest()[:4], "big") % 10_000
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", wanted))
        return wanted
    return free_port()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
