"""What proves a group, whatever it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.proof.batch import RolloutProof
from grail_core.proof.sketches import Projections
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol.policy import GenerationPolicy


class Prover(Protocol):
    """Holds the proof model. `load` is never called while a proof runs."""

    @property
    def proof_class(self) -> str:
        """The numerics class of sketches and log-probabilities."""
        ...

    @property
    def slots(self) -> int:
        """How many groups are proved at the same time; as many threads may call `prove` and `measure`."""
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

    def measure(
        self,
        rows: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        positions: Sequence[Sequence[int]],
        projections: Projections,
        policy: GenerationPolicy,
        sampling_seeds: Sequence[int],
    ) -> list[RolloutMeasurement]:
        """What a validator would measure of these rows, with the float32 reference where there is memory for it. Arguments and
        errors: as `grail_core.proof.batch.measure_rollouts`."""
        ...

    def close(self) -> None: ...
