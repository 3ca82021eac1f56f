"""What an examination learned on the way, for the checks that need it; and for whom it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grail_core.chain.base import Chain
    from grail_core.checkpoints.pinned_table import PinnedTable
    from grail_core.proof.calibration import Shape
    from grail_core.protocol.manifest import CheckpointManifest
    from grail_core.protocol.network import NetworkParameters
    from grail_core.protocol.signer import Signer
    from grail_core.storage.base import StoreDirectory


@dataclass(frozen=True)
class Role:
    """Who asks. `permit`: it sets weights, which wants a validator's permit. `trainer`: it has to be the network's trainer."""

    name: str
    permit: bool = False
    trainer: bool = False

    @property
    def package(self) -> str:
        return f"grail-{self.name}"


MINER, VALIDATOR, TRAINER = Role("miner"), Role("validator", permit=True), Role("trainer", trainer=True)


@dataclass
class Known:
    """Each is None until a check has found it, and stays so where it cannot be had."""

    params: NetworkParameters | None = None
    chain: Chain | None = None
    directory: StoreDirectory | None = None
    signer: Signer | None = None
    manifest: CheckpointManifest | None = None
    context_length: int | None = None  # tokens, of the checkpoint's model
    shape: Shape | None = None  # of the checkpoint's model
    pinned: PinnedTable | None = None  # the calibration table that the checkpoint pins
