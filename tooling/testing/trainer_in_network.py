"""`grail-trainer run` over a learning network that lies in a folder, as one process or under torchrun.

    python -m tooling.testing.trainer_in_network ROOT KILLED_AT OPTIONS…

The command line is the shipped one, and so is everything behind it; only what settings would open (chain, buckets, beacon and
key of a deployment) is the network's in ROOT. KILLED_AT: the last rank kills itself where it is told so for the first time.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import grail_trainer.start as start
from grail_core.participant.participant import Participant
from grail_trainer.cli import cli
from grail_trainer.learning import followers
from grail_trainer.learning.sharded_masters import ShardedMasters
from tooling.testing.learning_network import ENVIRONMENT, LearningNetwork

NEVER = "never"


def main(root: Path, killed_at: str, *options: str) -> None:
    def from_settings(settings: object, **_: object) -> Participant:
        return LearningNetwork.reopened(root, environment=ENVIRONMENT).participant("trainer")

    replaced: tuple[tuple[Any, str, Any], ...] = (
        (Participant, "from_settings", from_settings),
        (start, "training_environment", lambda env_id, data_dir: ENVIRONMENT),
        (start, "BoundEnvironments", lambda data_dir: lambda manifest: ENVIRONMENT),
    )
    for place, name, value in replaced:
        setattr(place, name, value)
    if killed_at != NEVER and int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        _die_in(killed_at)
    cli.main(["run", *options], standalone_mode=False)


def _die_in(step: str) -> None:
    """SIGKILL in the second of a follower's updates: in the middle of it, or where it is to write its shards."""
    places: dict[str, tuple[Any, str]] = {"learn": (followers, "learn_window"), "save": (ShardedMasters, "save")}
    place, name = places[step]
    original, calls = getattr(place, name), 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(place, name, dying)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
