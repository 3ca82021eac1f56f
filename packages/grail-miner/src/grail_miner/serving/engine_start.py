"""The engine of a node, from the settings that `grail-miner run` uses: started and supervised by us, or at an address.

A node is no miner: what its engine draws in need not be admitted by the network, but must be a numerics class that receipts can
name. Which GPUs the engine and the proofs take is decided by the miner's own layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grail_core.errors import ConfigurationError
from grail_core.generation.backends import joining_generator
from grail_core.generation.hf_streaming import MAX_ROWS
from grail_core.participant.settings import Settings
from grail_core.proof.numerics import class_name
from grail_core.protocol.policy import GenerationPolicy
from grail_core.telemetry import get_logger
from grail_miner.equipment import engine_folders, engine_options, how_tokens_are_drawn, visible_gpus
from grail_miner.layout import Layout, plan
from grail_miner.serving.engine_models import EngineModels
from grail_miner.serving.model_process import ModelProcess
from grail_miner.serving.models import Models

log = get_logger(__name__)

HF: Final = "hf"
"""The engine that is none: Transformers, in the process that proves."""


def anything(prompt: int, policy: GenerationPolicy) -> None:
    """What Transformers draws: by any policy, and up to the model's context."""


@dataclass(frozen=True)
class Drawing:
    """What draws and proves. `most_rows`: completions at a time. `require_drawable`: see `Answering`."""

    models: Models
    most_rows: int = MAX_ROWS
    require_drawable: Callable[[int, GenerationPolicy], None] = anything


def engine_drawing(settings: Settings, engine: str, url: str, state_dir: Path) -> Drawing:
    """Nothing is started or asked yet.

    Args:
        engine: "sglang" or "vllm". url: of a server that somebody else runs; "": as the settings say.
        state_dir: for logs, and links to weights.

    Raises:
        ConfigurationError, ProtocolViolationError: settings that contradict each other or the machine, or an engine that is not
            there.
    """
    chosen = {"pipeline_backend": engine} | ({f"{engine}_url": url, f"{engine}_python": None} if url else {})
    layout = plan(settings.model_copy(update=chosen), visible_gpus())
    for note in layout.notes:
        log.warning("%s", note)
    options = engine_options(settings, layout, state_dir)
    generator = joining_generator(options, _generation_class(layout))
    proofs = ModelProcess(device=layout.workers.devices[0])
    models = EngineModels(generator, proofs, engine_folders(generator, options))
    return Drawing(models, options.max_concurrent, models.require_drawable)


def _generation_class(layout: Layout) -> str:
    computing, engine = how_tokens_are_drawn(layout)
    try:
        return class_name(attention=computing.attention, device=computing.device.partition(":")[0], engine=engine)
    except ValueError as error:
        raise ConfigurationError(
            str(error), where="--engine", hint="use another engine, or --engine hf: receipts name what drew them"
        ) from error
