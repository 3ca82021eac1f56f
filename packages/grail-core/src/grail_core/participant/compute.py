"""What a machine needs at least: `compute.min.yaml`, beside this module and, the same bytes, at the repository's root.

A figure grows with the model, and says how it was come by: measured, computed from sizes, or estimated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grail_core.errors import ConfigurationError

FILE: Final = Path(__file__).with_name("compute.min.yaml")
ROLES: Final = ("miner", "validator", "trainer")
KINDS: Final = (
    "cpu_cores",
    "ram_gib",
    "gpu_count",
    "gpu_memory_gib",
    "disk_gib",
    "bandwidth_down_mbit",
    "bandwidth_up_mbit",
)
BASES: Final = ("measured", "computed", "estimated")


@dataclass(frozen=True)
class Figure:
    """`least` + `per_billion` · (parameters / 10⁹), in the unit that its kind's name ends with."""

    least: float
    per_billion: float
    basis: str
    source: str  # what it was measured on, or computed from

    def of(self, parameters: int) -> float:
        return self.least + self.per_billion * parameters / 1e9


@dataclass(frozen=True)
class Minima:
    """By role and kind, and what an environment adds by kind."""

    roles: Mapping[str, Mapping[str, Figure]]
    environments: Mapping[str, Mapping[str, Figure]]

    def least(self, role: str, environment: str | None, parameters: int) -> dict[str, float]:
        """Of every kind, for a model of so many parameters. An environment that the file does not have adds nothing."""
        added = self.environments.get(environment or "", {})
        return {
            kind: figure.of(parameters) + (added[kind].of(parameters) if kind in added else 0)
            for kind, figure in self.roles[role].items()
        }


def read_minima(path: Path = FILE) -> Minima:
    """The file's figures.

    Raises:
        ConfigurationError: it cannot be read, or does not say what it should.
    """
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        if value["version"] != 1 or value.keys() != {"version", "roles", "environments"}:
            raise ValueError("members other than version 1's")
        roles = {role: {kind: _figure(value["roles"][role][kind]) for kind in KINDS} for role in ROLES}
        if value["roles"].keys() != {*ROLES} or any(value["roles"][role].keys() != {*KINDS} for role in ROLES):
            raise ValueError("a role or a figure that nobody reads")
        environments = {name: {kind: _figure(of[kind]) for kind in of} for name, of in value["environments"].items()}
        if any(kind not in KINDS for of in environments.values() for kind in of):
            raise ValueError("a figure that nobody reads")
    except (OSError, KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"the minima of a machine cannot be read: {type(error).__name__}: {str(error)[:200]}",
            where=str(path),
            hint="install grail-core anew",
        ) from error
    return Minima(roles, environments)


def _figure(value: Any) -> Figure:
    if not value.keys() <= {"least", "per_billion_parameters", "basis", "from"}:
        raise ValueError(f"a figure with {', '.join(value)}")
    least, per_billion = float(value["least"]), float(value.get("per_billion_parameters", 0))
    if (
        value["basis"] not in BASES
        or not value["from"]
        or not math.isfinite(least + per_billion)
        or min(least, per_billion) < 0
    ):
        raise ValueError("a figure that says nothing of where it is from, or is no amount")
    return Figure(least, per_billion, value["basis"], value["from"])
