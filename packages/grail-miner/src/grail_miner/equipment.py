"""From settings and layout to what generates and what proves: the engine's options, a `Generator`, a `Prover`.

Nothing is started here: a server begins with the first weights that are to be served. Engines that other wheels add are found
by their entry points (`grail.generators`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from grail_core.errors import ConfigurationError
from grail_core.generation.options import EngineOptions
from grail_core.participant.classes import require_class
from grail_core.participant.settings import Settings
from grail_core.protocol.network import NetworkParameters
from grail_miner.layout import Layout

if TYPE_CHECKING:
    from grail_core.generation.base import Generator

SERVERS = ("sglang", "vllm")


@dataclass(frozen=True)
class Computing:
    """Where and how something computes, as a numerics class names it."""

    device: str
    attention: str = "sdpa"


def visible_gpus() -> int:
    """CUDA devices that this process sees. Imports torch."""
    import torch

    return torch.cuda.device_count()


def engine_options(settings: Settings, layout: Layout, state_dir: Path) -> EngineOptions:
    """How the engine of this layout is run.

    Args:
        state_dir: where links to weights and logs lie, unless GRAIL_PIPELINE_SYMLINK_DIR names another folder.

    Raises:
        ConfigurationError: no interpreter has the engine that is to be started.
    """
    return EngineOptions(
        backend=layout.backend,
        url=layout.url,
        python=None if layout.url or layout.backend not in SERVERS else engine_python(settings, layout.backend),
        gpus=layout.generation_gpus,
        max_model_len=settings.pipeline_max_model_len,
        memory_share=settings.pipeline_gpu_mem_util,
        max_num_seqs=settings.pipeline_max_num_seqs,
        max_concurrent=settings.pipeline_max_concurrent,
        cuda_graph=not settings.pipeline_disable_cuda_graph,
        native_sampling=settings.pipeline_deterministic,
        state_dir=settings.pipeline_symlink_dir or state_dir / "engine",
    )


def engine_python(settings: Settings, backend: str) -> Path:
    """The interpreter that an engine's server is started with: the one that is set, or this one if it has the engine.

    Raises:
        ConfigurationError: neither is there.
    """
    variable = f"GRAIL_{backend.upper()}_PYTHON"
    python = settings.sglang_python if backend == "sglang" else settings.vllm_python
    if python is not None:
        if not python.is_file():
            raise ConfigurationError("there is no such interpreter", where=f"{variable}={python}", hint=_how(backend))
        return python
    if find_spec(backend) is None:
        raise ConfigurationError(
            f"{backend} generates, and is not installed in the miner's own environment", where=variable, hint=_how(backend)
        )
    return Path(sys.executable)


def numerics_classes(layout: Layout, params: NetworkParameters) -> tuple[str, str]:
    """What headers will name: the class that proves, and the class that draws.

    Raises:
        ConfigurationError: the network does not admit one of them, with the list of what it admits.
    """
    proof = require_class(Computing(layout.workers.devices[0]), "proof", params)
    if layout.generation_device is not None:
        return proof, require_class(Computing(layout.generation_device), "generation", params)
    on_gpu = bool(layout.generation_gpus) or layout.url is not None  # somebody else's server is taken to have one
    computing = Computing("cuda", "flash") if on_gpu else Computing("cpu", "sdpa")
    return proof, require_class(computing, "generation", params, engine=layout.backend)


def make_generator(options: EngineOptions, numerics_class: str) -> Generator:
    """What draws tokens as `options` say; `numerics_class` is what headers will name.

    Raises:
        ConfigurationError: no such engine, or one whose wheel cannot be imported.
    """
    from grail_core.generation.backends import generator_factory

    return generator_factory(options.backend)(options, numerics_class)


def _how(backend: str) -> str:
    return (
        f"make an environment for it (python -m venv {backend}-env && {backend}-env/bin/pip install {backend}) and set"
        f" GRAIL_{backend.upper()}_PYTHON={backend}-env/bin/python; or set GRAIL_PIPELINE_BACKEND=hf to generate in process"
    )
