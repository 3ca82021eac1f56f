"""The folder of a development network: what lies where, and what `init` fixed for its life.

DIR/devnet.json        clock, pace, netuid, the relay's port, the trainer's name
DIR/seed               32 bytes in hexadecimal: every key of the network follows from it (mode 600)
DIR/roles/NAME.json    one participant; there is one file each, so that two commands never write the same one
DIR/chain.sqlite, network.json, wallets/, store/     the chain, its parameters, every hotkey, every bucket
DIR/cache/NAME, state/NAME, logs/NAME.jsonl          what is one role's own
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from grail_core.chain.development.clock import ClockMode
from grail_core.devnet.network import BURN, SeedOf, derived_seed
from grail_core.devnet.settings import Places, folder_bucket, role_settings
from grail_core.disk import storage_errors
from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.state_file import read_state, write_state

FORMAT = 1
COLDKEY = "devnet"
CLOCKS = {"real": ClockMode.REAL, "manual": ClockMode.VIRTUAL}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
MOST_ROLES = 200
"""Fewer than the chain has UIDs, so that nobody loses one."""
_RECOVERY = "begin a new one in another folder: grail devnet init"


class Role(StrEnum):
    MINER = "miner"
    VALIDATOR = "validator"
    TRAINER = "trainer"


@dataclass(frozen=True)
class Description:
    """What `init` was asked for. `port` alone may change: the relay's, of 127.0.0.1."""

    clock: str  # one of CLOCKS
    block_time_ms: int
    netuid: int
    port: int
    trainer: str

    @property
    def beacon_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class DevnetFolder:
    """Where everything of one development network lies. `root` is absolute."""

    root: Path

    @property
    def description(self) -> Path:
        return self.root / "devnet.json"

    @property
    def seed(self) -> Path:
        return self.root / "seed"

    @property
    def chain(self) -> Path:
        return self.root / "chain.sqlite"

    @property
    def network(self) -> Path:
        return self.root / "network.json"

    @property
    def wallets(self) -> Path:
        return self.root / "wallets"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def log(self) -> Path:
        """What `up --detach` prints."""
        return self.root / "logs" / "devnet.log"

    @property
    def lock(self) -> Path:
        """Held by the `up` that runs; it says which process that is."""
        return self.root / "up.json"

    @property
    def making(self) -> Path:
        """Held, with the folder that it lies in, by whoever makes the network or adds to it."""
        return self.roles / "making"

    @property
    def roles(self) -> Path:
        return self.root / "roles"

    def role_file(self, name: str) -> Path:
        return self.roles / f"{name}.json"

    def settings_of(self, name: str, description: Description) -> dict[str, str]:
        """All that a participant's commands need to be told."""
        places = Places(
            self.chain,
            self.network,
            self.wallets,
            cache=self.root / "cache" / name,
            state=self.root / "state" / name,
            log=self.root / "logs" / f"{name}.jsonl",
        )
        url = description.beacon_url
        settings = role_settings(name, places, netuid=description.netuid, coldkey=COLDKEY, beacon_url=url)
        return settings | folder_bucket(self.store, name)


def checked_name(name: str) -> str:
    """The name of a participant, which is its hotkey's and its bucket's too. Errors: ConfigurationError."""
    if not _NAME.fullmatch(name) or len(name) < 3 or name == BURN:
        raise ConfigurationError(
            f"{BURN} is the name of the hotkey that burns" if name == BURN else "no participant can have this name",
            where=repr(name[:80]),
            hint="a name has 3 to 32 lower-case letters, digits and '-', as a bucket's has",
        )
    return name


def read_description(folder: DevnetFolder) -> Description:
    """Of a folder that `init` made.

    Raises:
        ConfigurationError: there is none, or it is of another format; DamagedStateError: it is not what was written.
    """
    value = read_state(folder.description, what="the development network's description", recovery=_RECOVERY)
    if value is None:
        raise ConfigurationError(
            "there is no development network in this folder",
            where=str(folder.root),
            hint="make one: `grail devnet init DIR`; another folder is named with --dir",
        )
    if value.pop("format", None) != FORMAT:
        raise ConfigurationError("this development network is of another format", where=str(folder.root), hint=_RECOVERY)
    kinds = {field.name: str if field.type == "str" else int for field in dataclasses.fields(Description)}
    if value.keys() != kinds.keys() or any(type(value[name]) is not kind for name, kind in kinds.items()):
        raise _damaged(folder.description)
    description = Description(**value)
    if description.clock not in CLOCKS or description.block_time_ms < 1 or not 0 < description.port < 2**16:
        raise _damaged(folder.description)
    return description


def write_description(folder: DevnetFolder, description: Description) -> None:
    write_state(folder.description, {"format": FORMAT, **dataclasses.asdict(description)})


def read_roles(folder: DevnetFolder) -> dict[str, Role]:
    """Every participant by its name, the trainer first, in the order in which they are registered."""
    with storage_errors(folder.root):
        names = [path.stem for path in sorted(folder.roles.glob("*.json"))]
    found = {}
    for name in names:
        value = read_state(folder.role_file(name), what="a participant's file", recovery=f"grail devnet add ROLE {name}")
        if value is None or value.get("role") not in list(Role):
            raise _damaged(folder.role_file(name))
        found[name] = Role(value["role"])
    order = [Role.TRAINER, Role.VALIDATOR, Role.MINER]
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1]), item[0])))


def role_named(folder: DevnetFolder, name: str) -> Role:
    """Errors: ConfigurationError, which names those that there are."""
    roles = read_roles(folder)
    if name not in roles:
        raise ConfigurationError(
            "this development network has no such participant",
            where=repr(name[:80]),
            hint=f"there are {', '.join(roles)}; more come with `grail devnet add`",
        )
    return roles[name]


def seed_of(folder: DevnetFolder) -> SeedOf:
    """Where every key of the network comes from. Errors: DamagedStateError, StorageError."""
    with storage_errors(folder.seed), folder.seed.open("rb") as file:
        text = file.read(80).strip()
    if not re.fullmatch(rb"[0-9a-f]{64}", text):
        raise _damaged(folder.seed)
    return seeds_from(bytes.fromhex(text.decode()))


def seeds_from(seed: bytes) -> SeedOf:
    return partial(derived_seed, "grail/devnet", seed.hex())


def _damaged(path: Path) -> DamagedStateError:
    return DamagedStateError("a file of the development network is not what was written", where=str(path), hint=_RECOVERY)
