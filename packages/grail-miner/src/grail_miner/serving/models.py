"""What computes a node's answers: tokens of running requests, and proofs of finished ones, by the models that are held.

`Models` is what the scheduler needs, whatever stands behind it: this process (`HfModels`), a child of it (`model_process`), an
engine of somebody else's (`engine_models`).
The caller numbers its rows and names the weights by the container id of a model, so that two checkpoints can be held at once
and a request ends with the one that it began with.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NewType, Protocol

import numpy as np

from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.child_process.memory import available_bytes
from grail_core.errors import CheckpointError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf_streaming import MAX_ROWS, HfStreaming, position_bytes
from grail_core.generation.streaming import Handle
from grail_core.inference.answers import sketched_positions
from grail_core.inference.constants import PROMPT_POSITIONS
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof, prove_rollouts
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import projections, quantise, sketch
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from grail_core.protocol.types import Digest

if TYPE_CHECKING:
    from torch import Tensor

    from grail_core.model.policy_model import Attention

BURST_SECONDS: Final = 0.01
"""Tokens are drawn for so long before they are handed over, unless a row got its first or its last one."""

_CACHE_SHARE: Final = 0.5  # of the memory that is free once a model is loaded
_PROVED_FROM_DRAWING: Final = ("cpu",)
"""Devices on which it was measured how far the states that tokens are drawn from lie from a verifier's pass. There an answer
needs no pass for its proof."""

_REMEMBERED: Final = 4  # times the rows that run
_UNKNOWN_MEMORY: Final = 4 << 30  # where no system says how much is free

RowId = NewType("RowId", int)
"""A row, as its caller numbers it; never used twice."""


@dataclass(frozen=True)
class ModelToHold:
    """A folder, the weights that it must hold, and what its rows are drawn by unless they say otherwise."""

    container_id: bytes
    folder: Path
    weights_root: bytes
    end_tokens: frozenset[int]
    policy: GenerationPolicy
    vocabulary_size: int  # rows of the head
    context_length: int  # tokens


@dataclass(frozen=True)
class HeldModel:
    """What is known of weights once they are loaded: the numerics classes of what proves and of what draws."""

    proof_class: str
    generation_class: str


@dataclass(frozen=True)
class NewRow:
    id: RowId
    container_id: bytes
    request: GenerationRequest


@dataclass(frozen=True)
class Drawn:
    """Tokens of one row since it was last heard of."""

    id: RowId
    tokens: tuple[int, ...]
    finished: bool
    failed: str | None = None  # why it is lost, for whoever asked for it; nothing more comes of it then


@dataclass(frozen=True)
class ToProve:
    """The choices of one answer, which are proved in one pass."""

    container_id: bytes
    network_id: Digest
    sketch_seed: Digest
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    logprobs: bool
    rows: tuple[RowId, ...] = ()  # that they were drawn in: what is known of these may save the pass


class Models(Protocol):
    """Calls come from one thread."""

    def hold(self, wanted: ModelToHold) -> HeldModel:
        """Have these weights from now on; nothing happens where they are held already.

        Raises:
            CheckpointError: they cannot be loaded, or the folder has others by now. MachineFaultError: this machine cannot.
        """
        ...

    def release(self, container_id: bytes) -> None:
        """They are not needed any more, and nobody asks for a row of theirs; one that was to be cancelled goes with them."""
        ...

    def advance(self, rows: Sequence[NewRow], cancelled: Sequence[RowId], stopped: Sequence[RowId] = ()) -> list[Drawn]:
        """Take these rows in, leave those out, and draw for about BURST_SECONDS.

        Args:
            cancelled: nothing more is asked of them, not even a proof. stopped: they are drawn no further, and will be proved.

        Raises:
            MachineFaultError, CheckpointError: every row that ran is lost.
        """
        ...

    def prove(self, job: ToProve) -> list[RolloutProof]:
        """One proof a completion.

        Raises:
            UnprovableError: these states have none. MachineFaultError: every row that ran is lost, too.
        """
        ...

    def tend(self) -> None:
        """While no row runs: what has ended is replaced, so that the next request does not wait for it.

        Raises:
            MachineFaultError, CheckpointError: it cannot be.
        """
        ...

    def close(self) -> None: ...


class HfModels:
    """`Models` with Transformers in this process."""

    def __init__(
        self,
        *,
        device: str = "cpu",
        attention: Attention = "sdpa",
        max_rows: int = MAX_ROWS,
        burst_seconds: float = BURST_SECONDS,
    ) -> None:
        self._burst_seconds = burst_seconds
        self._device = device
        self._attention: Attention = attention
        self._max_rows = max_rows
        self._held: dict[bytes, tuple[PolicyModel, HfStreaming]] = {}
        self._rows: dict[RowId, tuple[bytes, Handle]] = {}
        self._ids: dict[tuple[bytes, Handle], RowId] = {}
        self._left: dict[RowId, tuple[bytes, Handle]] = {}  # rows that are not drawn any more, oldest first

    def hold(self, wanted: ModelToHold) -> HeldModel:
        """See `Models`. The folder's weights are hashed, so that what is served is what receipts name."""
        if wanted.container_id not in self._held:
            model = PolicyModel.load(wanted.folder, attention=self._attention, device=self._device)
            if digest_state(map_weights(wanted.folder)).root != wanted.weights_root:
                raise CheckpointError(
                    "the folder's weights are not those that it had when it was read",
                    where=str(wanted.folder),
                    hint="start the node again: it serves what the folder holds then",
                )
            model.logits(model.hidden_states([[0, 0]])[0])  # what this device cannot do it shall not do before any request
            kept = PROMPT_POSITIONS if model.device.type in _PROVED_FROM_DRAWING else 0
            of_states = model.hidden_size * model.dtype.itemsize if kept else 0
            room = _cache_bytes(model) // (position_bytes(model) + of_states)
            streaming = HfStreaming(
                model,
                wanted.policy,
                wanted.end_tokens,
                max_rows=self._max_rows,
                max_positions=room,
                prompt_states=kept,
            )
            self._held[wanted.container_id] = model, streaming
        name = numerics_class_of(self._held[wanted.container_id][0])
        return HeldModel(name, name)

    def release(self, container_id: bytes) -> None:
        self._held.pop(container_id, None)
        self._rows = {one: place for one, place in self._rows.items() if place[0] != container_id}
        self._ids = {place: one for one, place in self._rows.items()}
        self._left = {one: place for one, place in self._left.items() if place[0] != container_id}

    def advance(self, rows: Sequence[NewRow], cancelled: Sequence[RowId], stopped: Sequence[RowId] = ()) -> list[Drawn]:
        for row in rows:
            handle = self._held[row.container_id][1].add(row.request)
            self._rows[row.id] = row.container_id, handle
            self._ids[row.container_id, handle] = row.id
        for one in (*cancelled, *stopped):
            self._forget(one, cancel=True)
        for one in cancelled:
            place = self._left.pop(one, None)
            if place is not None:
                self._held[place[0]][1].forget(place[1])
        drawn: dict[RowId, list[int]] = {}
        finished: set[RowId] = set()
        end = time.monotonic() + self._burst_seconds
        while self._rows and not finished:
            first = self._step(drawn, finished)
            if first or time.monotonic() >= end:
                break
        return [Drawn(one, tuple(tokens), one in finished) for one, tokens in drawn.items()]

    def prove(self, job: ToProve) -> list[RolloutProof]:
        model, _ = self._held[job.container_id]
        signs = projections(Randomness(job.network_id), job.sketch_seed, model.hidden_size)
        states = self._states_of(job)
        if states is not None and not job.logprobs:
            return [RolloutProof(quantise(sketch(one, signs)), np.empty(0, dtype=np.float32)) for one in states]
        return prove_rollouts(
            model,
            [[*job.prompt, *completion] for completion in job.completions],
            [len(job.prompt)] * len(job.completions),
            signs,
            prompt_positions=PROMPT_POSITIONS,
            logprobs=job.logprobs,
        )

    def tend(self) -> None:
        pass

    def close(self) -> None:
        self._held.clear()

    def _step(self, drawn: dict[RowId, list[int]], finished: set[RowId]) -> bool:
        """One step of every model. Whether a row got its first token."""
        first = False
        for container_id in {container_id for container_id, _ in self._rows.values()}:
            for moved in self._held[container_id][1].step():
                one = self._ids[container_id, moved.handle]
                first = first or moved.first
                drawn.setdefault(one, []).extend(moved.tokens)
                if moved.finished:
                    finished.add(one)
                    self._forget(one)
        return first

    def _states_of(self, job: ToProve) -> list[Tensor] | None:
        """The states that each completion was drawn from, as far as it goes; None where one of them is not there whole."""
        for row in job.rows:
            self._forget(row, cancel=True)  # one that a stop text ended may still run
        found = [self._left.pop(row, None) for row in job.rows]
        states = [None if place is None else self._held[place[0]][1].states(place[1]) for place in found]
        if len(states) != len(job.completions):
            return None
        whole = []
        for one, completion in zip(states, job.completions, strict=True):
            needed = sketched_positions(len(job.prompt), len(completion))
            if one is None or len(one) < needed:
                return None
            whole.append(one[:needed])
        return whole

    def _forget(self, one: RowId, *, cancel: bool = False) -> None:
        place = self._rows.pop(one, None)
        if place is None:
            return  # it was finished before it was cancelled
        del self._ids[place]
        self._left[one] = place
        while len(self._left) > _REMEMBERED * self._max_rows:
            del self._left[next(iter(self._left))]
        if cancel:
            self._held[place[0]][1].cancel(place[1])


def _cache_bytes(model: PolicyModel) -> int:
    """What keys and values may take of the memory that is free now."""
    if model.device.type == "cuda":
        import torch

        free: int | None = torch.cuda.mem_get_info(model.device)[0]
    else:
        free = available_bytes()
    return int(_CACHE_SHARE * (free or _UNKNOWN_MEMORY))
