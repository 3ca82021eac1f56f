"""Making a development network and adding to it: each step may be repeated, and one that was killed half way is taken again.

The order is the one that makes this so: what `init` was asked for is written first, then who takes part, and wallets, chain,
parameters and registrations follow from these (`complete`), here and at every `up`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from grail_core.chain.development.local import LocalChain
from grail_core.devnet import network
from grail_core.devnet.folder import (
    CLOCKS,
    COLDKEY,
    MOST_ROLES,
    Description,
    DevnetFolder,
    Role,
    checked_name,
    read_description,
    read_roles,
    role_named,
    seed_of,
    seeds_from,
    write_description,
)
from grail_core.devnet.presence import is_up
from grail_core.disk import storage_errors, write_atomically
from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.keys import LocalSigner
from grail_core.participant.state import AlreadyRunningError, only_process
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.state_file import write_state

BLOCK_TIME_MS = 2_000
"""Windows of a minute: with a tiny model on two processors each of them is mined, judged and learned from in time."""
RAO = 1_000_000_000
"""Rao of one TAO."""
_PATIENCE_S = 60.0  # making one takes seconds
_LOOK_S = 0.05


@dataclass(frozen=True)
class Asked:
    """What `init` is asked for; None: not said, so the default, or what is there."""

    clock: str | None = None  # one of CLOCKS
    block_time_ms: int | None = None
    netuid: int | None = None
    port: int | None = None
    trainer: str | None = None
    validators: tuple[str, ...] = ()  # none said: one
    miners: tuple[str, ...] = ()  # none said: one
    seed: bytes | None = None  # 32 bytes that all keys follow from; not said: random ones

    def description(self, seed: bytes) -> Description:
        return Description(
            clock=self.clock or "real",
            block_time_ms=self.block_time_ms or BLOCK_TIME_MS,
            netuid=LOCALNET.netuid if self.netuid is None else self.netuid,
            port=self.port or network.own_port(seed),
            trainer=self.trainer or "trainer",
        )

    def roles(self) -> dict[str, Role]:
        """Errors: ConfigurationError for a name that none can have, or that two of them have."""
        named = [(self.trainer or "trainer", Role.TRAINER)]
        named += [(name, Role.VALIDATOR) for name in self.validators or ("validator-1",)]
        named += [(name, Role.MINER) for name in self.miners or ("miner-1",)]
        roles = {checked_name(name): role for name, role in named}
        if len(roles) < len(named):
            raise ConfigurationError(
                "two participants have one name",
                where=", ".join(name for name, _ in named),
                hint="every participant has a name of its own, whatever its role",
            )
        return roles


@dataclass(frozen=True)
class Devnet:
    """A development network that is whole, and how to reach it."""

    folder: DevnetFolder
    description: Description
    params: NetworkParameters
    chain: LocalChain
    roles: Mapping[str, Role]  # by name
    signers: Mapping[str, LocalSigner]  # by name, BURN among them


def init(folder: DevnetFolder, asked: Asked) -> Devnet:
    """Make the network, or finish one that an `init` began. Where there is one, what was not asked for is as it is.

    Raises:
        ConfigurationError: the folder holds another network or other files, or a name is none.
    """
    roles = asked.roles()
    if not folder.description.exists():
        _require_empty(folder)  # before anything is made in it
    with alone(folder):
        if folder.description.exists():  # by now: another `init` may have come first
            _require_same(folder, asked, roles)
        else:
            _begin(folder, asked, roles)
        return _completed(folder)


def _begin(folder: DevnetFolder, asked: Asked, roles: Mapping[str, Role]) -> None:
    with storage_errors(folder.root):
        for left in folder.roles.glob("*.json"):  # an `init` that was killed here may have been asked for others
            left.unlink()
    seed = asked.seed or secrets.token_bytes(32)
    write_atomically(folder.seed, seed.hex().encode() + b"\n", mode=0o600)
    for name, role in roles.items():
        write_state(folder.role_file(name), {"role": role.value})
    write_description(folder, asked.description(seed))


def complete(folder: DevnetFolder) -> Devnet:
    """The network with everything that its files ask for: wallets, chain, parameters, registrations. Waits for no block.

    With the real clock a network that is not up goes on here with its next block, as if no time had passed.
    """
    read_description(folder)  # a folder that holds no network is left as it is
    with alone(folder):
        return _completed(folder)


def _completed(folder: DevnetFolder) -> Devnet:
    description, roles, seeds = read_description(folder), read_roles(folder), seed_of(folder)
    if description.trainer not in roles:
        raise DamagedStateError(
            "the development network lacks its trainer's file",
            where=str(folder.role_file(description.trainer)),
            hint="begin a new one in another folder: grail devnet init",
        )
    signers = {network.BURN: network.burn_key(seeds), **network.make_wallets(folder.wallets, COLDKEY, roles, seeds)}
    params = network.development_parameters(
        "devnet",
        key=network.beacon_key(seeds),
        trainer=signers[description.trainer].hotkey,
        block_time_ms=description.block_time_ms,
        netuid=description.netuid,
    )
    if folder.chain.exists():
        chain = LocalChain.open(folder.chain)
        if not is_up(folder):
            chain.rebase_clock()
    else:
        chain = network.make_chain(folder.chain, params, seed=seeds("chain").hex(), clock=CLOCKS[description.clock])
    write_atomically(folder.network, json.dumps(params.to_json(), indent=1).encode())
    for place in (folder.store, folder.log.parent):
        with storage_errors(place):
            place.mkdir(exist_ok=True)
    stakes = {name: network.VALIDATOR_STAKE for name, role in roles.items() if role is Role.VALIDATOR}
    network.register(chain, signers, stakes)
    return Devnet(folder, description, params, chain, roles, signers)


@contextmanager
def alone(folder: DevnetFolder) -> Iterator[None]:
    """For as long as the block lasts, nobody else makes this network or adds to it. Waits for whoever is at it.

    Errors: AlreadyRunningError after a minute, StorageError.
    """
    until = time.monotonic() + _PATIENCE_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(only_process(folder.making, "this development network is being made", hint="try again"))
                break
            except AlreadyRunningError:
                if time.monotonic() > until:
                    raise
                time.sleep(_LOOK_S)
        yield


def add(folder: DevnetFolder, role: Role, name: str) -> Devnet:
    """One more participant, registered and, as a validator, with a stake. One that is there already is left as it is.

    Raises:
        ConfigurationError: no name, a name of another role, or a second trainer.
    """
    checked_name(name)
    description, roles = read_description(folder), read_roles(folder)
    if name not in roles and len(roles) >= MOST_ROLES:
        raise ConfigurationError(f"this network has {MOST_ROLES} participants, the most there can be", where=str(folder.root))
    if roles.get(name, role) is not role:
        raise ConfigurationError(f"{name} is a {roles[name]} already", where=str(folder.root), hint="choose another name")
    if role is Role.TRAINER and name != description.trainer:
        raise ConfigurationError(
            f"a network has one trainer, whom its parameters name: {description.trainer}",
            where=str(folder.network),
            hint="another trainer is another network: grail devnet init DIR --trainer NAME",
        )
    write_state(folder.role_file(name), {"role": role.value})
    return complete(folder)


def fund(devnet: Devnet, name: str, rao: int) -> None:
    """Stake to a participant; a negative amount takes it away. Errors: ConfigurationError, ChainError."""
    role_named(devnet.folder, name)
    devnet.chain.stake(devnet.signers[name], rao)


def wait_until_in_force(devnet: Devnet) -> None:
    """Wait, or with the manual clock advance, until the final block has everything that the chain was asked for before."""
    asked_at = devnet.chain.current_block() + 1
    while devnet.chain.finalised_block() < asked_at:
        network.one_block_more(devnet.chain)


def settle(devnet: Devnet) -> None:
    """Wait only where somebody's registration is not in force yet."""
    known = {neuron.hotkey for neuron in devnet.chain.metagraph().neurons}
    if any(signer.hotkey not in known for signer in devnet.signers.values()):
        wait_until_in_force(devnet)


def _require_same(folder: DevnetFolder, asked: Asked, roles: Mapping[str, Role]) -> None:
    there, known = read_description(folder), read_roles(folder)
    differences = [
        f"{field.name} was {getattr(there, field.name)}, now {getattr(asked, field.name)}"
        for field in dataclasses.fields(Description)
        if getattr(asked, field.name) not in (None, getattr(there, field.name))
    ]
    said = {*asked.validators, *asked.miners}
    differences += [f"there is no {roles[name]} {name}" for name in sorted(said) if known.get(name) is not roles[name]]
    if asked.seed is not None and seed_of(folder)("chain") != seeds_from(asked.seed)("chain"):
        differences.append("it has another seed")
    if differences:
        raise ConfigurationError(
            f"this folder holds another development network: {'; '.join(differences)}",
            where=str(folder.root),
            hint="leave the options out to use it, add participants with `grail devnet add`, or choose another folder",
        )


def _require_empty(folder: DevnetFolder) -> None:
    """A folder that an `init` left before it had written its description holds a seed and participants alone."""
    with storage_errors(folder.root):
        found = sorted(entry.name for entry in os.scandir(folder.root)) if folder.root.exists() else []
    strangers = [name for name in found if name not in ("seed", "roles") and not name.startswith(".")]
    if strangers:
        raise ConfigurationError(
            f"the folder is not empty and holds no development network ({', '.join(strangers[:3])})",
            where=str(folder.root),
            hint="choose another folder, or empty this one",
        )
