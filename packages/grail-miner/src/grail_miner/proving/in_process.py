"""One proof model in the miner's own process.

Where the checkpoint is loaded in this process already (a generator of Transformers' draws with it), the same model proves: no
second copy of the weights. Else the model is loaded from the checkpoint's folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from grail_core.checkpoints.loaded import LoadedCheckpoint, PreparedCheckpoint
from grail_core.errors import MachineFaultError
from grail_core.model.policy_model import Attention, PolicyModel
from grail_core.proof.batch import RolloutProof, prove_rollouts
from grail_core.proof.numerics import class_name, numerics_class_of
from grail_core.proof.sketches import Projections


class InProcessProver:
    """`Prover` with one model and one slot.

    Args:
        device, attention: of a model that is loaded here. A `LoadedCheckpoint`'s own model keeps what it has.
    """

    slots = 1

    def __init__(self, *, device: str = "cpu", attention: Attention = "sdpa") -> None:
        self._device = device
        self._attention: Attention = attention
        self._class = class_name(attention=attention, device=device.partition(":")[0])
        self._model: PolicyModel | None = None

    @property
    def proof_class(self) -> str:
        return self._class

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        self._model = None
        if isinstance(checkpoint, LoadedCheckpoint):
            model = checkpoint.model
        else:
            model = PolicyModel.load(checkpoint.folder, attention=self._attention, device=self._device)
        self._class = numerics_class_of(model)
        self._model = model

    def prove(
        self, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], projections: Projections
    ) -> list[RolloutProof]:
        if self._model is None:
            raise MachineFaultError("no weights are loaded to prove with", hint="load the window's checkpoint first")
        return prove_rollouts(self._model, rows, prompt_lengths, projections)

    def close(self) -> None:
        self._model = None
