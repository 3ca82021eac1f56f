"""One shape's models and texts, made when a section asks for them and shared by all that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Final

import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from tooling.adversaries.deviations.observation import Rollout
from tooling.studies.gpu_study import random_models, texts
from tooling.studies.gpu_study.measuring import Validator
from tooling.studies.gpu_study.random_models import Change
from tooling.studies.gpu_study.shapes import Measured

STEPS: Final = {"previous-1": 1e-5, "previous-2": 3e-6}
"""Earlier checkpoints that the validator knows, by name: the size of the step from each to the current one."""

_SEED = 81


class Bench:
    """A model of one shape on one device."""

    def __init__(self, measured: Measured, device: torch.device) -> None:
        self.measured, self.device = measured, device
        self.amount = measured.amount
        self.setting = texts.setting_of(measured.amount, f"gpu study, {measured.name}")

    @cached_property
    def model(self) -> PolicyModel:
        return random_models.random_model(self.measured.shape, self.device, _SEED)

    @cached_property
    def text(self) -> Sequence[Rollout]:
        """Honestly drawn."""
        return texts.draw(self.model, self.setting, self.amount)

    @cached_property
    def other(self) -> random_models.OtherWeights:
        return random_models.OtherWeights(self.model)

    @cached_property
    def validator(self) -> Validator:
        """With every kind of alternative that a validator names: rounded copies, and checkpoints before this one."""
        return Validator(self.model, self.setting, {name: partial(self._changed, stepped(name)) for name in STEPS})

    def _changed(self, change: Change) -> Mapping[str, Tensor]:
        return {name: change(name, weight) for name, weight in self.model.state().items()}

    @property
    def parameters(self) -> int:
        return sum(value.numel() for value in self.model.state().values())


def stepped(name: str) -> Change:
    """The weights of an earlier checkpoint."""
    return random_models.stepped_back(STEPS[name], seed=list(STEPS).index(name) + 1)
