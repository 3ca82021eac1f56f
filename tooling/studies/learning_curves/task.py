"""What is learned: an environment, or one family of logic puzzles, with the tiny model it starts from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from grail_core.environment import Environment
from grail_trainer.hyper_parameters import AdvantageKind

DEFAULT_TASKS = ("sat", "game_of_n")
GROUPS, GROUPS_OF = 48, {"game_of_n": 256}
"""Groups of 16 a window: what a localnet's three miners make; more where few answers are right, so that few groups vary."""

LEARNING_RATE_OF = {"game_of_n": 3e-4}
ADVANTAGES_OF: dict[str, AdvantageKind] = {"game_of_n": "centred"}
"""Where nobody says otherwise. One right answer of sixteen has, standardised, four times the advantage of one of eight
right ones: where few are right, a policy settles at 1e-3 on what was right by chance (seed 0, three losses: × 0.85 to 1.17)."""


def environments_of(task: str) -> tuple[Environment, Environment]:
    """What is trained on, and what is evaluated on.

    Raises:
        EnvironmentUnavailableError: neither an environment nor a family of `affine_logic`.
    """
    from grail_envs import load, load_held_out
    from grail_envs.logic.environment import FAMILIES

    parameters: dict[str, Any] = {"families": [task]} if task in FAMILIES else {}
    env_id = "affine_logic" if parameters else task
    return load(env_id, **parameters), load_held_out(env_id, **parameters)


def model_of(task: str, seed: int, cache_dir: Path | None) -> Path:
    """A new folder with the model that `grail-trainer init` makes for this seed, from the cache where it was made before."""
    from grail_core.participant.settings import load_settings
    from grail_trainer.tiny.init import create_model

    folder = Path(tempfile.mkdtemp(prefix="grail-learn-")) / "model"
    create_model(environments_of(task)[0], folder, seed=seed, cache_dir=cache_dir or load_settings().cache_dir)
    return folder
