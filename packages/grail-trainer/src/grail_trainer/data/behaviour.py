"""Log-probabilities of the policy that drew a window's rollouts, by the very code that the trained policy is asked with.

The proof's own pass (bfloat16, as every participant computes it) says who drew a rollout; it is not what an update may be held
against: its log-probabilities differ from those of the float32 pass by rounding, and every importance weight would start with
that noise. Here the behaviour checkpoint's weights are what the masters were when they were published, in the masters' type,
so that a policy whose weights did not move has a ratio of exactly 1. Nothing that a miner claims comes in.

Where a pass finds no memory, with everything freed that can be, the window cannot be learned from on this machine as it is:
that is an error of its own, and no finding about the file whose rows were in the pass. No pass is made smaller instead: other
passes are other bits, which no audit could repeat. The largest pass that rows can ask for was made before the first window
(`learning.dry_step`), with gradients, so no file can ask for more than was there then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_core.errors import OutOfMemoryError
from grail_core.model.memory import MemoryUsedUpError, on_this_machine
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.reference import Reference
from grail_trainer.hyper_parameters import ComputeType, GrpoSettings
from grail_trainer.learning.packing import packs
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import TokenSequence

T = TypeVar("T")


class BehaviourPolicy:
    """A checkpoint as the trainer's own policy asks it: the float32 copy of its weights that rollouts are verified against too.

    Args:
        reference: of `in_float32`; as long as this is asked, it is asked for nothing else than these weights.
    """

    def __init__(
        self, reference: Reference, tokens_per_pass: int = GrpoSettings().tokens_per_pass, compute: ComputeType = "float32"
    ) -> None:
        self._ask(reference.model().module, tokens_per_pass, compute)

    @classmethod
    def of(cls, module: Any, tokens_per_pass: int, compute: ComputeType) -> BehaviourPolicy:
        """Of a Transformers causal model that is in float32."""
        policy = cls.__new__(cls)
        policy._ask(module, tokens_per_pass, compute)
        return policy

    def _ask(self, module: Any, tokens_per_pass: int, compute: ComputeType) -> None:
        self._tokens_per_pass = tokens_per_pass
        self._policy = Policy(module, compute=compute).eval()

    def logprobs(self, rows: Sequence[TokenSequence], temperature: float) -> list[npt.NDArray[np.float32]]:
        """Of every completion token (nats) at the sampling temperature: float32 [completion] of each row, in the order given.

        Rows run together as an update would run them (`packs`): the same rows in the same passes give the same bits; in
        others, of another width, a product may be summed in another order (measured: up to 7e-6 nats).

        Args:
            temperature: of the signed manifest of the window that the rows are of.

        Raises:
            OutOfMemoryError: a pass finds no memory, twice.
        """
        found: dict[int, npt.NDArray[np.float32]] = {}
        for pack in packs(rows, self._tokens_per_pass, packed=self._policy.packed):
            part = [rows[place] for place in pack]
            values = _in_memory(partial(self._pass, part, temperature))
            ends = np.cumsum([row.completion_length for row in part])
            found |= dict(zip(pack, np.split(values, ends[:-1]), strict=True))
        return [found[place] for place in range(len(rows))]

    def _pass(self, rows: Sequence[TokenSequence], temperature: float) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            values: npt.NDArray[np.float32] = self._policy(rows, temperature=temperature).logprob.float().cpu().numpy()
        return values


def in_float32(loaded: LoadedCheckpoint) -> Alternatives:
    """The float32 copy of a checkpoint's weights, beside no others: what its window's rollouts are verified against, and what
    is asked for their log-probabilities.

    It takes 4 bytes a weight while a window is verified. The gradients, which take as much, are not there then, so the peak of
    an update is not raised by it.

    Raises:
        OutOfMemoryError: there is no memory for it.
    """
    return _in_memory(lambda: Alternatives(loaded.model, {}))


def behaviour_logprobs(
    loaded: LoadedCheckpoint,
    rows: Sequence[TokenSequence],
    temperature: float,
    tokens_per_pass: int = GrpoSettings().tokens_per_pass,
    compute: ComputeType = "float32",
) -> list[npt.NDArray[np.float32]]:
    """`BehaviourPolicy.logprobs` for who asks once; who asks for many groups of one checkpoint keeps the policy."""
    return BehaviourPolicy(in_float32(loaded).reference, tokens_per_pass, compute).logprobs(rows, temperature)


def _in_memory(work: Callable[[], T]) -> T:
    """`work`, tried once more with everything freed that can be where memory runs out."""

    @on_this_machine
    def tried() -> T:
        return work()

    try:
        return tried()
    except MemoryUsedUpError as error:
        raise OutOfMemoryError(
            f"there was no memory for the behaviour policy in float32: {error.what}",
            hint="the window is learned from at the next start; leave the device to the trainer alone, or lower "
            "--tokens-per-pass (`grail-trainer run --dry-run` shows what takes the memory)",
        ) from error
