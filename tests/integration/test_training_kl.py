"""The KL term through the trainer as it is shipped: its coefficient follows the rule, over windows and restarts."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from grail_core.protocol.types import Window
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.learning.kl_controller import COEFFICIENT, KlController
from tooling.testing.learning_network import ENVIRONMENT, LearningNetwork, learning_model, published_log, service
from tooling.testing.small_network import FIRST_WINDOW

SETTINGS = HyperParameters(
    GrpoSettings(epochs=2, minibatches=1, kl_coefficient=0.01, kl_target=0.04),
    OptimiserSettings(learning_rate=2e-3, warmup_steps=0),
)
"""The second step of a window is at some distance from the first checkpoint, so that there is a KL."""

TARGETS = (100.0, 1e-6)  # nats a token: further away than any update goes, and nearer than any stays


@pytest.mark.heavy
def test_the_coefficient_follows_what_was_measured_over_windows_and_restarts(tmp_path: Path) -> None:
    model = learning_model(tmp_path / "model")
    network = LearningNetwork(tmp_path, environment=ENVIRONMENT, model=model)
    participant, coefficient = network.participant("trainer"), 0.01
    for number, (target, factor) in enumerate(zip(TARGETS, (1 / 1.5, 1.5), strict=True)):
        window = Window(FIRST_WINDOW + 30 * number)
        network.advance_to(window + 1)
        network.mine_and_upload("miner-0", window=window)
        network.judge(window)
        update = dataclasses.replace(SETTINGS.update, kl_target=target)
        trainer = service(participant, model, dataclasses.replace(SETTINGS, update=update))  # as after a restart
        assert trainer.run(threading.Event(), windows=number + 1) == number + 1
        statistics = published_log(participant, window)["statistics"]
        assert float(statistics["kl_coefficient"]) == coefficient
        assert float(statistics["kl_reference"]) > 0
        coefficient = KlController(target).next(coefficient, float(statistics["kl_reference"]))
        assert trainer.masters.scalars[COEFFICIENT] == coefficient
        assert coefficient == pytest.approx((0.01, 0.01 / 1.5)[number] * factor)
