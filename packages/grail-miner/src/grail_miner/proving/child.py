"""A proof worker: it loads the checkpoint that it is told to from this machine's cache, and proves or measures groups with it.

Its parent is `processes.ProcessProver`, and nobody else starts it. It has no wallet, no store and no chain, signs nothing, and
lives as long as its parent (`grail_core.child_process.boot`). That it loaded what the manifest names it shows by the root of
the weights that lie in its memory afterwards.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from grail_core.child_process import frames as transport
from grail_core.child_process.boot import Answers, serve
from grail_core.child_process.frames import Payload
from grail_core.errors import MachineFaultError, StorageError
from grail_core.protocol.types import Digest
from grail_miner.proving import frames
from grail_miner.proving.frames import ERRORS, Kind
from grail_miner.proving.places import WorkerPlace

if TYPE_CHECKING:
    from grail_core.model.policy_model import Attention, PolicyModel


def main() -> NoReturn:
    """Arguments: the descriptor of the connection, the worker's place, attention."""
    serve(_prepared, kinds=Kind, ready=Kind.READY, fault=Kind.FAULT, names=ERRORS)


def _prepared() -> Answers[Kind]:
    worker = _Worker(WorkerPlace.of_text(sys.argv[2]), cast("Attention", sys.argv[3]))
    return {
        Kind.LOAD: (Kind.LOADED, worker.load),
        Kind.PROVE: (Kind.PROVED, worker.prove),
        Kind.MEASURE: (Kind.MEASURED, worker.measure),
    }


class _Worker:
    """One model at a time."""

    def __init__(self, place: WorkerPlace, attention: Attention) -> None:
        if place.cpus:
            os.sched_setaffinity(0, place.cpus)  # before any library counts processors
        import torch
        from transformers import AutoModelForCausalLM  # noqa: F401 - takes seconds, better now than in a window

        from grail_core.model.policy_model import require_device
        from grail_miner.proving.references import References

        torch.set_num_threads(place.threads)
        require_device(place.device)
        self._place, self._attention = place, attention
        self._version: Digest | None = None
        self._model: PolicyModel | None = None
        self._references = References()
        self._files: dict[Path, tuple[int, int, int]] = {}

    def load(self, payload: memoryview) -> Payload:
        """The folder's weights, in place of those before them: two copies need not fit."""
        from grail_core.model.memory import free_memory
        from grail_core.model.policy_model import PolicyModel
        from grail_core.model.reload import reload_weights
        from grail_core.proof.numerics import numerics_class_of

        told, _ = transport.unpack(payload)
        model, self._version, self._model = self._model, None, None
        self._references.forget()
        folder = Path(told["folder"])
        files = _files_of(folder)
        if model is None or not reload_weights(model, folder):
            model = None
            free_memory()
            model = PolicyModel.load(folder, attention=self._attention, device=self._place.device)
        model.logits(model.hidden_states([[0, 0]])[0])  # what this device cannot do it shall not do before any group
        root = _root_of(model, folder)
        self._files = files
        self._model, self._version = model, Digest(bytes.fromhex(told["version"]))
        return transport.pack({"version": told["version"], "root": root and root.hex(), "class": numerics_class_of(model)})

    def prove(self, payload: memoryview) -> Payload:
        from grail_core.proof.batch import prove_rollouts

        version, rows, prompts, signs = frames.asked(payload)
        proofs = prove_rollouts(self._required(version), rows, prompts, signs)
        self._require_untouched()
        return frames.answer_proofs(version, proofs)

    def measure(self, payload: memoryview) -> Payload:
        from grail_core.proof.batch import measure_rollouts

        asked = frames.asked_measured(payload)
        model = self._required(asked.version)
        measured = measure_rollouts(
            model,
            asked.rows,
            asked.prompt_lengths,
            asked.positions,
            asked.projections,
            asked.policy,
            asked.sampling_seeds,
            reference=self._references.beside(model),
        )
        self._require_untouched()
        return frames.answer_measured(asked.version, measured)

    def _required(self, version: Digest) -> PolicyModel:
        if self._model is None or version != self._version:
            raise MachineFaultError(f"the worker was asked to prove with {version[:4].hex()}…, which it did not load")
        return self._model

    def _require_untouched(self) -> None:
        """On the processor the weights are the file's own pages, which all workers share: who writes into the file writes into
        the model. A file that was removed or replaced stays what it was for who has it mapped."""
        if self._place.device != "cpu":
            return
        for path, then in self._files.items():
            now = _stamp(path)
            if now is not None and now[0] == then[0] and now != then:
                raise StorageError("the weights' file was written to while it was in use", where=str(path))


def _files_of(folder: Path) -> dict[Path, tuple[int, int, int]]:
    return {path: stamp for path in folder.glob("*.safetensors") if (stamp := _stamp(path)) is not None}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Which file it is, and what changes when it is written to; None where it is not there any more."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _root_of(model: PolicyModel, folder: Path) -> Digest | None:
    """`weights_root` of what lies in memory, under the names that the folder's files have; None where Transformers keeps a
    model's tensors under other names, or joined, so that no root can be had of them."""
    from grail_core.checkpoints.delta.digests import digest_state
    from grail_core.checkpoints.delta.shards import read_header
    from grail_core.checkpoints.delta.tensors import raw_state

    names = [name for path in sorted(folder.glob("*.safetensors")) for name in read_header(path)]
    state = model.module.state_dict()
    if not all(name in state for name in names):
        return None
    return digest_state(raw_state({name: state[name].cpu() for name in names})).root
