"""Everything that keeps a role from starting, found in one go: settings → network → wallet → bucket → chain.

Each part is tried whatever became of the others; what another one is needed for is tried with what there is. One thing that is
wrong is its own error; several are one error that names all, with the exit code of the first. `run` begins with this and a
doctor can ask it too. A remote chain is opened here and not asked: it is the first thing that a start asks once nothing else is
missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from grail_core.beacon.base import Beacon
from grail_core.chain.base import Chain
from grail_core.checkpoints.pinned_table import read_own_copy
from grail_core.clock import wall_clock_ms
from grail_core.errors import ConfigurationError, GrailError
from grail_core.keys import LocalSigner
from grail_core.participant.deployment import (
    directory_on,
    load_signer,
    network_clock,
    network_parameters,
    open_beacon,
    open_chain,
    parameters_of,
    require_chains_netuid,
    require_netuid,
    require_registered,
)
from grail_core.participant.settings import Settings
from grail_core.protocol.network import LOCALNET, SUBNET_81, NetworkParameters
from grail_core.storage.base import StoreDirectory

T = TypeVar("T")

SETTINGS, NETWORK, WALLET, BUCKET, CHAIN = PARTS = ("settings", "network", "wallet", "bucket", "chain")


@dataclass(frozen=True)
class Missing:
    """One thing that keeps a role from starting: what, where and what to try are the error's."""

    part: str  # one of PARTS
    error: GrailError


class SeveralMissingError(ConfigurationError):
    """More than one thing is missing: `missing`, in the order of PARTS. The exit code is the first one's."""

    def __init__(self, missing: list[Missing]) -> None:
        self.missing = tuple(missing)
        self.exit_code = missing[0].error.exit_code  # type: ignore[misc]
        told = "".join(f"\n  {one.part}: {_indented(str(one.error))}" for one in missing)
        super().__init__(
            f"{len(missing)} things keep this role from starting:{told}",
            where=", ".join(dict.fromkeys(one.part for one in missing)),
            hint="mend them from the first on: a later one may follow from it",
        )


@dataclass(frozen=True)
class Handles:
    """A role's handles to the outside world."""

    params: NetworkParameters
    chain: Chain
    directory: StoreDirectory
    beacon: Beacon
    signer: LocalSigner


@dataclass
class Opened:
    """What could be opened, None for what could not, and why not."""

    params: NetworkParameters | None = None
    chain: Chain | None = None
    directory: StoreDirectory | None = None
    beacon: Beacon | None = None
    signer: LocalSigner | None = None
    missing: list[Missing] = field(default_factory=list)

    def attempt(self, part: str, what: Callable[[], T]) -> T | None:
        """Its value; None where it ends with an error of ours, which is missing then."""
        try:
            return what()
        except GrailError as error:
            self.missing.append(Missing(part, error))
            return None

    def require_all(self) -> Handles:
        """All of them. Errors: the one that is missing, or `SeveralMissingError`."""
        self.missing.sort(key=lambda one: PARTS.index(one.part))
        if len(self.missing) > 1:
            raise SeveralMissingError(self.missing)
        if self.missing:
            raise self.missing[0].error
        if self.params is None or self.chain is None or self.directory is None or self.beacon is None or self.signer is None:
            raise AssertionError("nothing is missing, and something was not opened")
        return Handles(self.params, self.chain, self.directory, self.beacon, self.signer)


def open_everything(settings: Settings) -> Opened:
    """Every handle of a role that can be had with these settings, and all that is missing for the others."""
    found = Opened()
    if settings.calibration is not None:
        own_copy = settings.calibration
        found.attempt(SETTINGS, lambda: read_own_copy(own_copy))
    found.params = found.attempt(NETWORK, lambda: network_parameters(settings))
    described = found.params or _without_trainer(settings)
    if described is not None:
        found.beacon = found.attempt(NETWORK, lambda: _beacon(settings, described))
    found.signer = found.attempt(WALLET, lambda: load_signer(settings))
    # Of no network the buckets are asked about as the settings mean them, so that they are told of at once.
    meant = described or (SUBNET_81 if settings.storage_root is None else LOCALNET)
    found.directory = found.attempt(BUCKET, lambda: _directory(settings, meant))
    found.chain = found.attempt(CHAIN, lambda: open_chain(settings))
    if found.chain is not None:
        _look_at_chain(settings, found, found.chain)
    return found


def _look_at_chain(settings: Settings, found: Opened, chain: Chain) -> None:
    if found.params is not None:
        params = found.params
        found.attempt(CHAIN, lambda: _require_netuids(settings, params, chain))
    if found.missing and settings.bt_network == "local" and found.signer is not None:
        signer = found.signer  # a start asks this next; where there is none, it is told with the rest
        found.attempt(CHAIN, lambda: require_registered(chain, signer, settings))


def _require_netuids(settings: Settings, params: NetworkParameters, chain: Chain) -> None:
    """A development chain has its netuid in its file; what the operator says counts all the same."""
    if "netuid" in settings.model_fields_set:
        require_netuid(settings.netuid, params)
    require_chains_netuid(chain, settings, params)


def _without_trainer(settings: Settings) -> NetworkParameters | None:
    """The network, where all that is wrong with it is that it names no trainer."""
    try:
        return parameters_of(settings)
    except ConfigurationError:
        return None


def _beacon(settings: Settings, params: NetworkParameters) -> Beacon | None:
    try:
        return open_beacon(settings, params)
    except ConfigurationError:
        raise
    except GrailError:
        return None  # the chain whose clock it follows is not there, and is told of as the chain


def _directory(settings: Settings, params: NetworkParameters) -> StoreDirectory | None:
    try:
        clock = network_clock(settings)
    except GrailError:
        clock = wall_clock_ms  # its chain is not there, and is told of as the chain
    return directory_on(settings, params, clock)


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")
