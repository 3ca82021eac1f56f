"""What is learned from: verified rollouts, group by group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenSequence:
    """One rollout as the model reads it: prompt + completion ids, of which the first `prompt_length` are the prompt."""

    tokens: tuple[int, ...]
    prompt_length: int

    def __post_init__(self) -> None:
        if not 0 < self.prompt_length <= len(self.tokens):
            raise ValueError(f"a prompt of {self.prompt_length} of {len(self.tokens)} tokens: it has at least one")

    @property
    def completion_length(self) -> int:
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class Rollout:
    """One verified rollout. `behaviour` float32 [completion]: log-probabilities under the policy that drew it, at its
    temperature, measured by this trainer. `truncated`: it ended at the token limit, and not with an end token."""

    row: TokenSequence
    reward: float
    success: bool
    behaviour: npt.NDArray[np.float32]
    truncated: bool = False
    well_formed: bool = True  # an answer was found in the form that was asked for, right or wrong


@dataclass(frozen=True)
class RolloutGroup:
    """The rollouts of one problem. `name` identifies the group (hotkey, window, group) and orders nothing."""

    name: str
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> list[float]:
        return [rollout.reward for rollout in self.rollouts]
