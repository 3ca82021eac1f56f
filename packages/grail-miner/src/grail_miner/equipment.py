"""From settings and layout to what generates and what proves: the engine's options, a `Generator`, a `Prover`.

No server is started here: it begins with the first weights that are to be served. Engines that other wheels add are found by
their entry points (`grail.generators`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from grail_core.errors import ConfigurationError
from grail_core.generation.installed import TRIED
from grail_core.generation.options import EngineOptions, require_model_len
from grail_core.participant.classes import require_class
from grail_core.participant.settings import Settings
from grail_core.protocol.network import NetworkParameters
from grail_miner.layout import Layout

if TYPE_CHECKING:
    from grail_core.checkpoints.loaded import PreparedCheckpoint
    from grail_core.generation.base import Generator
    from grail_core.generation.engine_folder import EngineFolders
    from grail_core.participant.participant import Participant
    from grail_core.protocol.manifest import CheckpointManifest
    from grail_miner.mining import Checkpoints
    from grail_miner.proving.base import Prover
    from grail_miner.weight_roll import WeightRoll

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
        max_model_len=settings.pipeline_max_model_len + _spare_tokens(layout.backend),
        memory_share=settings.pipeline_gpu_mem_util,
        max_num_seqs=settings.pipeline_max_num_seqs,
        max_concurrent=settings.pipeline_max_concurrent,
        cuda_graph=not settings.pipeline_disable_cuda_graph,
        native_sampling=settings.pipeline_deterministic,
        state_dir=settings.pipeline_symlink_dir or state_dir / "engine",
    )


def _spare_tokens(backend: str) -> int:
    """What an engine's limit must have beyond prompt and completion, which are what the setting counts."""
    if backend != "sglang":
        return 0
    from grail_core.generation.sglang import SglangGenerator

    return SglangGenerator.spare_tokens


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
    computing, engine = how_tokens_are_drawn(layout)
    return proof, require_class(computing, "generation", params, engine=engine)


def how_tokens_are_drawn(layout: Layout) -> tuple[Computing, str]:
    """What the generation class is made of, and the engine's name in it."""
    if layout.generation_device is not None:
        return Computing(layout.generation_device), "transformers"
    on_gpu = bool(layout.generation_gpus) or layout.url is not None  # somebody else's server is taken to have one
    on_cpu = Computing("cpu", "torchnative" if layout.backend == "sglang" else "sdpa")
    return (Computing("cuda", "flash") if on_gpu else on_cpu), layout.backend


def make_generator(options: EngineOptions, numerics_class: str) -> Generator:
    """What draws tokens as `options` say; `numerics_class` is what headers will name.

    Raises:
        ConfigurationError: no such engine, or one whose wheel cannot be imported.
    """
    from grail_core.generation.backends import generator_factory

    return generator_factory(options.backend)(options, numerics_class)


def make_prover(layout: Layout) -> Prover:
    """What proves: in process, in threads, or in processes, which begin to import what they need."""
    workers = layout.workers
    if workers.kind == "processes":
        from grail_miner.proving.places import on_gpus, on_processors
        from grail_miner.proving.processes import ProcessProver

        gpus = [int(device.partition(":")[2]) for device in workers.devices if device != "cpu"]
        places = on_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES")) if gpus else on_processors(len(workers.devices))
        return ProcessProver(places)
    if layout.shared_model or (not layout.in_process and workers.kind == "in process"):
        from grail_miner.proving.in_process import InProcessProver

        return InProcessProver(device=workers.devices[0])
    from grail_miner.proving.threads import ThreadProver

    return ThreadProver(workers.devices)  # also one: it takes a copy where the model in this process is on another device


@dataclass(frozen=True)
class Equipment:
    """What `Mining` is made of: `checkpoints.at` prepares a checkpoint, and rolls a server and proof processes to it."""

    generator: Generator
    prover: Prover
    checkpoints: Checkpoints


@contextmanager
def equipped(settings: Settings, layout: Layout, participant: Participant) -> Iterator[Equipment]:
    """Generator, prover and the checkpoints that both are on; closed in the end, whatever happened.

    Raises:
        ConfigurationError: the network does not admit how this layout computes, or the engine is not there.
    """
    from grail_core.checkpoints.loaded import LiveCheckpoint
    from grail_miner.weight_roll import WeightRoll

    _, generation_class = numerics_classes(layout, participant.params)
    options = engine_options(settings, layout, participant.state.root)
    source = participant.checkpoints
    with ExitStack() as closing:
        live = LiveCheckpoint(source, device=layout.generation_device) if layout.generation_device is not None else None
        generator = make_generator(options, generation_class)
        closing.callback(generator.close)
        prover = make_prover(layout)
        closing.callback(prover.close)
        if live is not None and layout.workers.kind != "processes":
            yield Equipment(generator, prover, live)
            return
        roll = WeightRoll(source, generator, prover, live=live, folders=engine_folders(generator, options))
        closing.callback(roll.close)
        yield Equipment(
            generator, prover, _Rolled(roll, participant, None if layout.in_process else settings.pipeline_max_model_len)
        )


def require_room(participant: Participant, max_model_len: int) -> None:
    """Before a window is waited for: has the engine room for what the running window's policy may draw? Each roll asks again.

    Raises:
        ProtocolViolationError: it has not; the least value is in the hint.
        CheckpointError, ChainError, StorageError: the checkpoint cannot be asked for. No error where none is valid yet.
    """
    from grail_core.checkpoints.fetch import model_files
    from grail_core.model.described import ModelDescription

    source = participant.checkpoints
    if not any(stored.manifest.valid_from <= participant.current_window() for stored in source.view().stored):
        return
    manifest = source.valid_at(participant.current_window())
    description = ModelDescription.of(model_files(manifest, source.bucket()))
    require_model_len(max_model_len, manifest.policy, description.context_length)


class _Rolled:
    """A roll that asks whether the engine has room for the new policy, and has the next checkpoint made ready meanwhile."""

    def __init__(self, roll: WeightRoll, participant: Participant, max_model_len: int | None) -> None:
        self._roll, self._participant, self._max_model_len = roll, participant, max_model_len

    def at(self, manifest: CheckpointManifest) -> PreparedCheckpoint:
        """As `WeightRoll.at`. Raises: ProtocolViolationError too, where the engine ends completions before the policy does."""
        prepared = self._roll.at(manifest)
        if self._max_model_len is not None:
            require_model_len(self._max_model_len, manifest.policy, prepared.description.context_length)
        self._roll.follow(self._participant.next_window())
        return prepared


def engine_folders(generator: Generator, options: EngineOptions) -> EngineFolders:
    """Where engine and proof workers read weights: the generator's own folders, where it keeps some."""
    from grail_core.generation.engine_folder import EngineFolders

    own = getattr(generator, "folders", None)
    if isinstance(own, EngineFolders):
        return own
    assert options.state_dir is not None
    return EngineFolders(options.state_dir / "weights")


def _how(backend: str) -> str:
    made = f"{backend}-env"
    return (
        f"make an environment for it (python -m venv {made} && {made}/bin/pip install '{backend}{TRIED[backend]}') and set"
        f" GRAIL_{backend.upper()}_PYTHON={made}/bin/python; or set GRAIL_PIPELINE_BACKEND=hf to generate in process"
    )
