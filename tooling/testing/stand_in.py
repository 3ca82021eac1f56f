"""How `stand_in_server` is started in an engine's place."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grail_core.generation.base import ServedWeights
from grail_core.generation.launch import Launch
from grail_core.generation.options import EngineOptions

PROGRAM = Path(__file__).with_name("stand_in_server.py")


@dataclass(frozen=True)
class StandIn:
    """A `Launcher`: the first start behaves as the first of `behaviours`, and so on; the last is repeated."""

    behaviours: tuple[str, ...]
    ports: list[int] = field(default_factory=list)

    def __call__(
        self, options: EngineOptions, weights: ServedWeights, port: int, *, api_key: str, scratch: Path, own: Mapping[str, str]
    ) -> Launch:
        behaviour = self.behaviours[min(len(self.ports), len(self.behaviours) - 1)]
        self.ports.append(port)
        command = (sys.executable, "-S", str(PROGRAM), behaviour, str(port))
        return Launch(command, {"PATH": os.environ["PATH"]}, {scratch / "key": api_key})
