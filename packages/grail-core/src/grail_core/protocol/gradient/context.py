"""What is known of a round once its seed beacon is out: the window's context, read as gradient work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from grail_core.protocol.context import WindowContext
from grail_core.protocol.gradient.rounds import RoundTimes
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.randomness import Randomness
from grail_core.protocol.types import Digest, Window


@dataclass(frozen=True)
class RoundContext:
    """The context of window T with the spec that its manifest names. Errors: ValueError where it names none, or T begins no
    round, or the network leaves the round no room."""

    window: WindowContext

    def __post_init__(self) -> None:
        _ = self.times

    @cached_property
    def spec(self) -> GradientSpec:
        return GradientSpec.of(self.window.manifest.environment)

    @cached_property
    def times(self) -> RoundTimes:
        return RoundTimes(self.round, self.spec, self.params)

    @property
    def round(self) -> Window:
        """T."""
        return self.window.window

    @property
    def params(self) -> NetworkParameters:
        return self.window.params

    @property
    def network_id(self) -> Digest:
        return self.window.network_id

    @property
    def manifest(self) -> CheckpointManifest:
        return self.window.manifest

    @property
    def randomness(self) -> Randomness:
        return self.window.randomness

    @property
    def window_seed(self) -> Digest:
        return self.window.window_seed

    @property
    def sequence(self) -> int:
        """Of the checkpoint that the round trains: what learning and outer rates are looked up by."""
        return self.manifest.sequence
