"""Which engine is doubled, and what its flags decide of its decoding. Without torch, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Flavour = Literal["sglang", "vllm"]
VERSIONS: dict[Flavour, str] = {"sglang": "0.5.23", "vllm": "0.33.0"}
"""Of the wheels that the interfaces were read from."""


@dataclass(frozen=True)
class EngineSetup:
    """What the engine's flags decide. `context` in tokens, None: the model's own."""

    flavour: Flavour
    folder: Path
    dtype: str = "bfloat16"
    max_num_seqs: int = 64
    context: int | None = None
    label: str = "default"
    plugin: bool = True  # the sampling plug-in is loaded, or may come with a request
    deterministic: bool = False
    prefix_caching: bool = True
