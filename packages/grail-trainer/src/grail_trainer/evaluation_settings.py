"""The knobs of the evaluations that `grail-trainer run` makes beside the learning. They change no weights: no log names them.

Nothing heavy is imported here: `--help` reads this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from grail_core.errors import ConfigurationError
from grail_core.participant.knobs import check_knobs, knob


@dataclass(frozen=True)
class EvaluationSettings:
    """Which published checkpoints are evaluated, on how much, and where."""

    evaluate_every: int = knob(0, "Evaluate every so many published checkpoints on held-out problems; 0: none.", least=0)
    evaluate_problems: int = knob(512, "Held-out problems of such an evaluation.", least=1)
    evaluate_samples: int = knob(1, "Samples of each of them, for pass@k.", least=1, most=64)
    evaluate_device: str = knob("cpu", "Device that draws them: cpu takes nothing of the GPU that is trained on.")

    def __post_init__(self) -> None:
        check_knobs(self)
        if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", self.evaluate_device):
            raise ConfigurationError(
                f"evaluate_device cannot be {self.evaluate_device}", where="evaluate_device", hint="cpu, cuda, or cuda:1"
            )


@dataclass(frozen=True)
class BesideSettings:
    """What a run does beside the learning, section by section."""

    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


NOTHING_BESIDE: Final = BesideSettings()
"""What nobody asked for anything gets."""
