"""Log-probabilities of the policy that drew a window's rollouts, by the very code that the trained policy is asked with.

The proof's own pass (bfloat16, as every participant computes it) says who drew a rollout; it is not what an update may be held
against: its log-probabilities differ from those of the float32 pass by rounding, and every importance weight would start with
that noise. Here the behaviour checkpoint's weights are what the masters were when they were published, in the masters' type,
so that a policy whose weights did not move has a ratio of exactly 1. Nothing that a miner claims comes in.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_trainer.hyper_parameters import GrpoSettings
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import TokenSequence
from grail_trainer.learning.update import micro_batches


class BehaviourPolicy:
    """A checkpoint as the trainer's own policy asks it: a float32 copy of its weights, made once and for as long as this lives.

    The copy takes 4 bytes a weight while a window is verified. The gradients, which take as much, are not there then, so the
    peak of an update is not raised by it.
    """

    def __init__(self, loaded: LoadedCheckpoint, tokens_per_pass: int = GrpoSettings().tokens_per_pass) -> None:
        self._tokens_per_pass = tokens_per_pass
        with loaded.model.lock, torch.no_grad():
            self._policy = Policy(_in_float32(loaded.model.module)).eval()

    def logprobs(self, rows: Sequence[TokenSequence], temperature: float) -> list[npt.NDArray[np.float32]]:
        """Of every completion token (nats) at the sampling temperature: float32 [completion] of each row, in the order given.

        Rows run together as an update would run them (`micro_batches`): the same rows in the same passes give the same bits; in
        others, of another width, a product may be summed in another order (measured: up to 7e-6 nats).

        Args:
            temperature: of the signed manifest of the window that the rows are of.
        """
        found: dict[int, npt.NDArray[np.float32]] = {}
        for pack in micro_batches(rows, self._tokens_per_pass):
            part = [rows[place] for place in pack]
            with torch.inference_mode():
                values = self._policy(part, temperature=temperature).logprob.float().cpu().numpy()
            ends = np.cumsum([row.completion_length for row in part])
            found |= dict(zip(pack, np.split(values, ends[:-1]), strict=True))
        return [found[place] for place in range(len(rows))]


def behaviour_logprobs(
    loaded: LoadedCheckpoint,
    rows: Sequence[TokenSequence],
    temperature: float,
    tokens_per_pass: int = GrpoSettings().tokens_per_pass,
) -> list[npt.NDArray[np.float32]]:
    """`BehaviourPolicy.logprobs` for who asks once; who asks for many groups of one checkpoint keeps the policy."""
    return BehaviourPolicy(loaded, tokens_per_pass).logprobs(rows, temperature)


def _in_float32(module: Any) -> Any:
    """A copy with float32 in place of every floating tensor, as `module.float()` makes it; ties stay tied, and no second copy
    in the type of the original is made on the way."""
    copied: dict[int, Any] = {}
    for parameter in module.parameters():
        copied[id(parameter)] = nn.Parameter(parameter.detach().float().clone(), requires_grad=False)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            copied[id(buffer)] = buffer.detach().float().clone()
    return copy.deepcopy(module, copied)
