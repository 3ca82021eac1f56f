"""Proofs in threads of the miner's own process: one model a device, one slot a model.

Torch leaves the interpreter to others while a device computes, so on GPUs threads do nearly what processes do, in one copy of
the libraries. What a process of its own would survive ends the miner here. Slots of one device share its weights.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

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


class ThreadProver:
    """`Prover` whose threads are the callers'.

    Args:
        devices: one a slot, of one kind: ("cuda:0", "cuda:1"), or ("cpu", "cpu") for two threads over the same weights.
        attention: of models that are loaded here. A `LoadedCheckpoint`'s own model keeps what it has.

    Raises:
        ValueError: no numerics class is admitted for devices and attention, they are of two kinds, or there is none.
    """

    def __init__(self, devices: Sequence[str], *, attention: Attention = "sdpa") -> None:
        if len({device.partition(":")[0] for device in devices}) != 1:
            raise ValueError("proof threads are all on GPUs or all on the processor, and there is at least one")
        self._devices = tuple(devices)
        self._attention: Attention = attention
        self._class = class_name(attention=attention, device=devices[0].partition(":")[0])
        self._free: deque[PolicyModel] = deque()
        self._changed = threading.Condition()
        self._usable = False
        self._references = References()
        self._own: list[PolicyModel] = []  # loaded here, one a slot; nobody else has them

    @property
    def proof_class(self) -> str:
        return self._class

    @property
    def slots(self) -> int:
        return len(self._devices)

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        """As `Prover`. Raises: StorageError too, where the system refuses to read the folder."""
        with self._changed:
            self._usable = False
            self._free.clear()
        self._references.forget()
        models = self._models(checkpoint)
        with self._changed:
            self._class = numerics_class_of(models[0])
            self._free.extend(models)
            self._usable = True

    @on_this_machine
    def _models(self, checkpoint: PreparedCheckpoint) -> list[PolicyModel]:
        before, self._own = self._own, []
        if not isinstance(checkpoint, LoadedCheckpoint):
            if before and self._reloaded(before, checkpoint):
                self._own = before
                return before
            before = []
        free_memory()
        models: dict[str, PolicyModel] = {}
        made = []
        for device in self._devices:
            first = models.get(device)
            made.append(self._first(checkpoint, device) if first is None else over_the_same_weights(first))
            models.setdefault(device, made[-1])
        if not isinstance(checkpoint, LoadedCheckpoint):
            self._own = made
        return made

    def _reloaded(self, models: Sequence[PolicyModel], checkpoint: PreparedCheckpoint) -> bool:
        """Whether every device's weights could be put in the place of its old ones."""
        firsts = dict(zip(reversed(self._devices), reversed(models), strict=True)).values()  # one a device
        if not all(reload_weights(model, checkpoint.folder) for model in firsts):
            return False
        for model in models:
            model.weights_changed()
        return True

    def _first(self, checkpoint: PreparedCheckpoint, device: str) -> PolicyModel:
        if not isinstance(checkpoint, LoadedCheckpoint):
            return PolicyModel.load(checkpoint.folder, attention=self._attention, device=device)
        model = checkpoint.model
        if torch.device(device) == model.device:
            return model
        with model.lock:  # the folder's weights may be older than these
            return PolicyModel(copy.deepcopy(model.module).to(device).requires_grad_(False))

    def prove(
        self, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], projections: Projections
    ) -> list[RolloutProof]:
        with self._model() as model:
            return prove_rollouts(model, rows, prompt_lengths, projections)

    def measure(
        self,
        rows: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        positions: Sequence[Sequence[int]],
        projections: Projections,
        policy: GenerationPolicy,
        sampling_seeds: Sequence[int],
    ) -> list[RolloutMeasurement]:
        with self._model() as model:
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

    @contextmanager
    def _model(self) -> Iterator[PolicyModel]:
        with self._changed:
            self._changed.wait_for(lambda: self._free or not self._usable)
            if not self._usable:
                raise MachineFaultError("no weights are loaded to prove with", hint="load the window's checkpoint first")
            model = self._free.popleft()
        try:
            yield model
        finally:
            with self._changed:
                self._free.append(model)
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._usable = False
            self._free.clear()
            self._changed.notify_all()
        self._references.forget()


def over_the_same_weights(model: PolicyModel) -> PolicyModel:
    """A second model whose parameters and buffers are the first's, with a lock of its own: both can run at the same time."""
    shared = {id(tensor): tensor for tensor in (*model.module.parameters(), *model.module.buffers())}
    return PolicyModel(copy.deepcopy(model.module, shared))
