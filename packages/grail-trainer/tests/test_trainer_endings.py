"""What would end a trainer late or hold it back: settings that no log takes, and an error while a store is away."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import AlarmStopError, ConfigurationError, OutOfMemoryError, StorageError
from grail_core.keys import LocalSigner
from grail_core.protocol.types import Digest, Window
from grail_trainer.hyper_parameters import GrpoSettings, OptimiserSettings
from grail_trainer.learning.optimiser import Masters
from grail_trainer.publishing import background
from grail_trainer.publishing.background import BackgroundPublisher, Snapshot
from grail_trainer.state import TrainerState
from grail_trainer.steps import Beginning, TrainedWindow
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model


def masters() -> Any:
    return Masters(random_model(Qwen2Shape(64, hidden=16, heads=2, tied=True), 0), OptimiserSettings())


@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        (GrpoSettings, {"tokens_per_pass": 2**53}),
        (GrpoSettings, {"seed": -(2**53)}),
        (OptimiserSettings, {"rounding_seed": 10**400}),
        (OptimiserSettings, {"lora_rank": 10**9}),
        (OptimiserSettings, {"lora_modules": "q_proj," * 100}),
    ],
)
def test_settings_that_no_log_could_say_are_refused_before_anything_is_learned(kind: Any, knobs: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as told:
        kind(**knobs)
    assert told.value.where == next(iter(knobs))


class Away:
    """A publisher whose store is away for so many tries."""

    def __init__(self, tries: int) -> None:
        self.tries, self.tried = tries, threading.Event()

    def publish_trained(self, *_: Any, **__: Any) -> None:
        self.tried.set()
        self.tries -= 1
        if self.tries >= 0:
            raise StorageError("503")


@pytest.mark.parametrize(("error", "published"), [(OutOfMemoryError("no memory"), False), (AlarmStopError("kl"), True)])
def test_an_error_is_not_held_back_by_a_store_that_is_away_and_an_alarms_window_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, published: bool
) -> None:
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.05)
    state = TrainerState(tmp_path, network_id=Digest(bytes(32)), trainer=LocalSigner.from_seed(bytes(32)).hotkey)
    state.take(Beginning(Window(0)))
    trained = TrainedWindow(Window(30), {"window": 30}, {}, {})
    state.take(trained, masters())
    away: Any = Away(5 if published else 10**6)
    publishing = BackgroundPublisher(away, state, threading.Event(), last=None, tell=lambda *_: None)
    publishing.give(Snapshot(trained, {}))

    def failing() -> None:
        with publishing.running():
            assert away.tried.wait(30)
            raise error

    with pytest.raises(type(error)):
        failing()
    assert [one.window for one in state.pending] == ([] if published else [30])
