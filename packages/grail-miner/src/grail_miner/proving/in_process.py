"""One proof model in the miner's own process: what every other prover is measured against, and what a pool falls back to.

Where the checkpoint is loaded in this process already (a generator of Transformers' draws with it), the same model proves: no
second copy of the weights. Else the model is loaded from the checkpoint's folder.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from grail_core.checkpoints.loaded import LoadedCheckpoint, PreparedCheckpoint
from grail_core.errors import MachineFaultError
from grail_core.model.memory import free_memory, on_this_machine
from grail_core.model.policy_model import Attention, PolicyModel
from grail_core.model.reload import reload_weights
from grail_core.proof.batch import RolloutProof, measure_rollouts, prove_rollouts
from grail_core.proof.numerics import class_name, numerics_class_of
from grail_core.proof.sketches import Projections
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.proving.references import References


class InProcessProver:
    """`Prover` with one model and one slot.

    Args:
        device, attention: of a model that is loaded here. A `LoadedCheckpoint`'s own model keeps what it has.

    Raises:
        ValueError: no numerics class is admitted for device and attention.
    """

    slots = 1

    def __init__(self, *, device: str = "cpu", attention: Attention = "sdpa") -> None:
        self._device = device
        self._attention: Attention = attention
        self._class = class_name(attention=attention, device=device.partition(":")[0])
        self._model: PolicyModel | None = None
        self._own = False  # `_model` was loaded here, and nobody else has it
        self._references = References()
        self._lock = threading.Lock()  # one group at a time: a second one's activations may not fit

    @property
    def proof_class(self) -> str:
        return self._class

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        """As `Prover`. Raises: StorageError too, where the system refuses to read the folder."""
        before, self._model = self._model, None  # two copies of the weights need not fit
        self._references.forget()
        if isinstance(checkpoint, LoadedCheckpoint):
            model, self._own = checkpoint.model, False
        else:
            model = self._from_folder(checkpoint, before if self._own else None)
            self._own = True
        self._class = numerics_class_of(model)
        self._model = model

    @on_this_machine
    def _from_folder(self, checkpoint: PreparedCheckpoint, before: PolicyModel | None) -> PolicyModel:
        if before is not None and reload_weights(before, checkpoint.folder):
            return before
        del before
        free_memory()
        return PolicyModel.load(checkpoint.folder, attention=self._attention, device=self._device)

    def prove(
        self, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], projections: Projections
    ) -> list[RolloutProof]:
        with self._lock:
            return prove_rollouts(self._loaded(), rows, prompt_lengths, projections)

    def measure(
        self,
        rows: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        positions: Sequence[Sequence[int]],
        projections: Projections,
        policy: GenerationPolicy,
        sampling_seeds: Sequence[int],
    ) -> list[RolloutMeasurement]:
        with self._lock:
            model = self._loaded()
            return measure_rollouts(
                model,
                rows,
                prompt_lengths,
                positions,
                projections,
                policy,
                sampling_seeds,
                reference=self._references.beside(model),
            )

    def _loaded(self) -> PolicyModel:
        if self._model is None:
            raise MachineFaultError("no weights are loaded to prove with", hint="load the window's checkpoint first")
        return self._model

    def close(self) -> None:
        self._model = None
        self._references.forget()
