"""The largest pass of an update, made once before anything is waited for, so that memory that does not suffice shows at once.

A pass over rows as long as the policy allows, as many as fit the token budget (one, where one is longer), forward and backward,
beside the copy that an update can be taken back to and room for the moments. Its gradients are thrown away: no step is made, so
that weights, moments and counters are what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from grail_core.errors import OutOfMemoryError, is_out_of_memory
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import TokenSequence


@dataclass(frozen=True)
class _MeanLogprob:
    """Elementwise, and with slopes that are not zero."""

    tokens: int
    elementwise: bool = True

    def loss(self, logprob: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        return -logprob / self.tokens


def dry_step(masters: Masters, *, prompt_length: int, longest: int, tokens_per_pass: int) -> int:
    """Make the largest pass. Returns its tokens.

    Args:
        prompt_length, longest: of the longest rollout, in tokens; `longest` counts its prompt too.

    Raises:
        OutOfMemoryError: names the settings that make the pass smaller.
    """
    rows = max(1, tokens_per_pass // longest)
    # Another first token each: prompts that rows share may be computed once.
    vocabulary = int(masters.module.get_input_embeddings().weight.shape[0])
    batch = [TokenSequence((row % vocabulary, *([0] * (longest - 1))), prompt_length) for row in range(rows)]
    objective = _MeanLogprob(rows * (longest - prompt_length))
    try:
        with _as_in_an_update(masters):
            loss = masters.policy(batch, objective).loss
            if loss is not None:
                loss.backward()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"the largest pass of an update does not fit: {rows} rollouts of {longest} tokens",
            where=f"tokens_per_pass {tokens_per_pass}, device {next(masters.policy.parameters()).device}",
            hint="lower --tokens-per-pass, or the manifest's max_tokens if one rollout is too long; "
            "`grail-trainer run --dry-run` shows what takes the memory",
        ) from error
    finally:
        masters.zero_gradients()
    return rows * longest


@contextmanager
def _as_in_an_update(masters: Masters) -> Iterator[None]:
    """What is held beside the pass while a window is learned from."""
    held = masters.tensors()
    trained = [parameter for parameter in masters.module.parameters() if parameter.requires_grad]
    if not any(name.startswith("moment") for name in held):
        held |= {f"{place}.{half}": torch.empty_like(one) for place, one in enumerate(trained) for half in (1, 2)}
    try:
        yield
    finally:
        held.clear()
