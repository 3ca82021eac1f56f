"""A GPU and the CPU of the same machine with the same weights: either one as the miner, the other as the validator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

import torch

from grail_core.model.policy_model import PolicyModel
from tooling.adversaries.deviations.observation import Rollout
from tooling.studies.gpu_study import honest
from tooling.studies.gpu_study.bench import Bench
from tooling.studies.gpu_study.measuring import Validator, claims_of, figures_of
from tooling.studies.gpu_study.sections import Figures, Item, NotHereError, Section
from tooling.studies.gpu_study.texts import in_batches


class _Beside:
    """The bench's model on the CPU, and one group of its text: a CPU is slow."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @cached_property
    def model(self) -> PolicyModel:
        if self._bench.device.type == "cpu":
            raise NotHereError("the device is the CPU")
        return PolicyModel(copy.deepcopy(self._bench.model.module).to("cpu"))

    @cached_property
    def text(self) -> Sequence[Rollout]:
        return next(in_batches(self._bench.text))

    def cpu_miner(self) -> Figures:
        model, setting = self.model, self._bench.setting
        claims = claims_of(model, setting, self.text, honest.states_of(model, self.text, honest.prescribed))
        return figures_of(setting, self.text, claims, self._bench.validator.measure(self.text))

    def cpu_validator(self) -> Figures:
        model, setting = self._bench.model, self._bench.setting
        claims = claims_of(model, setting, self.text, honest.states_of(model, self.text, honest.prescribed))
        validator = Validator(self.model, setting, {})
        return figures_of(setting, self.text, claims, validator.measure(self.text))

    def float32(self) -> Figures:
        """The two references, which should say the same."""
        wide = Validator(self.model, self._bench.setting, {}).reference
        theirs = torch.cat(
            [state.cpu() for state in honest.states_of(self._bench.validator.reference, self.text, honest.prescribed)]
        )
        ours = torch.cat(honest.states_of(wide, self.text, honest.prescribed))
        ratios = torch.linalg.vector_norm(theirs - ours, dim=1) / torch.linalg.vector_norm(ours, dim=1)
        return {"drift_rms.float32": float(ratios.square().mean().sqrt())}


def _items(bench: Bench) -> Sequence[Item]:
    beside = _Beside(bench)
    return [
        ("CPU miner, validator on the device", beside.cpu_miner),
        ("the two references", beside.float32),
        ("miner on the device, CPU validator", beside.cpu_validator),
    ]


SECTION = Section("cpu", 1.0, _items, small_shapes_only=True)
