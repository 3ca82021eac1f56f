"""What proves a group, whatever it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.proof.batch import RolloutProof
from grail_core.proof.sketches import Projections


class Prover(Protocol):
    """Holds the proof model. `load` is never called while a proof runs."""

    @property
    def proof_class(self) -> str:
        """The numerics class of sketches and log-probabilities."""
        ...

    @property
    def slots(self) -> int:
        """How many groups are proved at the same time; as many threads may call `prove`."""
        ...

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        """Prove with these weights from now on, in every worker.

        Raises:
            CheckpointError, StorageError, MachineFaultError: it cannot; nothing is proved until a `load` succeeds.
        """
        ...

    def prove(
        self, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], projections: Projections
    ) -> list[RolloutProof]:
        """Sketches and log-probabilities of one group. Errors: as `grail_core.proof.batch.prove_rollouts`."""
        ...

    def close(self) -> None: ...
