"""Which work a window has: the one place where a manifest's environment decides what roles do.

Everything else asks `work_of` once and goes its own way from there. Rollouts are whatever an environment plug-in poses
problems for; gradient work is the one `env_id` that is no environment: software that does not know it finds no such one.
"""

from __future__ import annotations

from enum import Enum

from grail_core.protocol.gradient.spec import GRADIENT
from grail_core.protocol.manifest import CheckpointManifest


class Work(Enum):
    """A kind of work; the value is the `kind` of its seals."""

    ROLLOUTS = "rollouts"
    GRADIENT = "gradient"


def work_of(manifest: CheckpointManifest) -> Work:
    """The work of the windows that this checkpoint is valid in."""
    return Work.GRADIENT if manifest.environment.env_id == GRADIENT else Work.ROLLOUTS
