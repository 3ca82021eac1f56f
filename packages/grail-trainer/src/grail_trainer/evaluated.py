"""What is evaluated, and what draws: a model's folder or a network's checkpoint, and an engine by its name.

A checkpoint's policy and end tokens are its signed manifest's, whatever its folder says; a folder that is no checkpoint has
nothing but its own defaults, and what of them a network would not follow is told.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from grail_core.checkpoints.cache import MANIFEST_FILE
from grail_core.checkpoints.cached import read_checkpoint
from grail_core.environment import Environment
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.generation.backends import generator_factory
from grail_core.generation.base import Generator, ServedWeights
from grail_core.generation.defaults import sampling_defaults
from grail_core.generation.engine_folder import EngineFolders
from grail_core.generation.options import EngineOptions
from grail_core.model.described import ModelDescription
from grail_core.model.errors import no_model_folder
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.participant.settings import Settings
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.policy import GenerationPolicy
from grail_trainer.evaluate import REQUESTS_AT_ONCE

IN_PROCESS = "hf"

_AT_ONCE_BY_ENGINES = 8192  # requests: an engine schedules them itself
_SERVERS = ("sglang", "vllm")


@dataclass(frozen=True)
class Evaluated:
    """Weights in a Transformers folder, how they are drawn from, and what to ask where nobody says."""

    version: str  # of the weights: a manifest's digest, or the SHA-256 of a folder's weight files
    folder: Path
    policy: GenerationPolicy
    end_tokens: tuple[int, ...]
    manifest: CheckpointManifest | None = None  # of a network's checkpoint
    notes: tuple[str, ...] = ()


def evaluated_folder(folder: Path, settings: Settings) -> Evaluated:
    """A model's folder. One of a checkpoint is verified against the network that the settings name, where they name one.

    Raises:
        CheckpointError: it is no model's folder, or not the checkpoint that its manifest names.
    """
    if not folder.is_dir():
        raise no_model_folder(folder)
    notes: tuple[str, ...] = ()
    if (folder / MANIFEST_FILE).is_file():
        from grail_core.participant.deployment import network_parameters

        try:
            trainer = network_parameters(settings).trainer_hotkey
        except ConfigurationError:
            notes = (
                f"{MANIFEST_FILE} is not read: GRAIL_NETWORK names no trainer to verify it; the folder's defaults are used, "
                "and the environment is what --env says",
            )
        else:
            return _of(read_checkpoint(folder, trainer).manifest, folder)
    defaults = sampling_defaults(folder)
    return Evaluated(_weights_digest(folder), folder, defaults.policy, defaults.end_tokens, None, (*notes, *defaults.notes))


def evaluated_checkpoint(name: str, settings: Settings) -> Evaluated:
    """A checkpoint of the network: `head`, or the first window that it is valid in. It is fetched and verified.

    Raises:
        CheckpointError: there is none, or it cannot be fetched. ChainError, StorageError: the network cannot be read.
    """
    from grail_core.checkpoints.source import CheckpointSource
    from grail_core.participant.deployment import network_parameters, open_chain, open_reader

    params = network_parameters(settings)
    chain = open_chain(settings)
    source = CheckpointSource(
        chain,
        open_reader(settings, params, chain),
        params,
        params.network_id(chain.genesis_hash),
        settings.cache_dir,
        cache_limit_bytes=settings.checkpoint_cache_gib << 30,
    )
    view = source.view()
    if name == "head":
        manifest = view.head
    else:
        manifest = next((one.manifest for one in view.stored if str(one.manifest.valid_from) == name), None)
    if manifest is None:
        known = ", ".join(str(one.manifest.valid_from) for one in view.stored[-5:]) or "none"
        raise CheckpointError(
            "the network has no such checkpoint",
            where=f"--checkpoint {name}",
            hint=f"head, or the window it is valid from (`grail-trainer inspect`); the newest: {known}",
        )
    return _of(manifest, source.materialise(manifest))


def environments_of(evaluated: Evaluated, env_ids: tuple[str, ...], default: str, settings: Settings) -> list[Environment]:
    """Those that were named, with the problems that nobody trains on; else a checkpoint's own, else `default`. One that is
    named and is the checkpoint's has the checkpoint's parameters.

    Raises:
        EnvironmentUnavailableError: unknown, or its data set is not there.
    """
    from grail_envs import load_held_out
    from grail_envs.adapters.consent import consent_to
    from grail_envs.bound import load_bound

    manifest = evaluated.manifest
    own = manifest.environment if manifest is not None else None
    for env_id in env_ids:
        consent_to(env_id)  # whoever started this command typed it

    def opened(env_id: str) -> Environment:
        if manifest is None or own is None or env_id != own.env_id:
            return load_held_out(env_id, data_dir=settings.data_dir)
        load_bound(own, manifest.env_digest, settings.data_dir)  # is it the network's, of the same version and data?
        return load_held_out(env_id, **{**own.parameters, "data_dir": settings.data_dir})  # the folder is ours

    return [opened(env_id) for env_id in env_ids or (own.env_id if own is not None else default,)]


@contextmanager
def serving(
    evaluated: Evaluated, backend: str, url: str | None, settings: Settings
) -> Iterator[tuple[Generator, ServedWeights]]:
    """The engine, drawing with these weights; closed afterwards, and its server with it where it is ours.

    Raises:
        ConfigurationError: no such engine, or no interpreter that has it.
        EngineError, CheckpointError: it does not serve these weights.
    """
    in_process = backend == IN_PROCESS
    if in_process and url is not None:
        raise ConfigurationError("hf generates in this process", where="--url", hint="--backend sglang, or vllm")
    with tempfile.TemporaryDirectory(prefix="grail-evaluate-") as temporary:
        options = EngineOptions(
            backend=backend,
            url=url,
            python=None if url is not None or backend not in _SERVERS else _interpreter(backend, settings),
            max_model_len=settings.pipeline_max_model_len + _spare_tokens(backend),
            memory_share=settings.pipeline_gpu_mem_util,
            max_num_seqs=settings.pipeline_max_num_seqs,
            max_concurrent=settings.pipeline_max_concurrent,
            cuda_graph=not settings.pipeline_disable_cuda_graph,
            state_dir=Path(temporary) / "engine",
        )
        weights = _weights(evaluated, settings.device if in_process else None)
        generator = generator_factory(backend)(options, f"evaluation-{backend}")
        folders = None
        try:
            if not in_process:
                folders = EngineFolders(Path(temporary) / "weights")
                weights = folders.stage(weights)
            generator.serve(weights)
            yield generator, weights
        finally:
            generator.close()
            if folders is not None:
                folders.close()


def at_once(backend: str) -> int:
    """Requests that are drawn together."""
    return REQUESTS_AT_ONCE if backend == IN_PROCESS else _AT_ONCE_BY_ENGINES


def _of(manifest: CheckpointManifest, folder: Path) -> Evaluated:
    return Evaluated(manifest.digest.hex(), folder, manifest.policy, tuple(manifest.end_token_ids), manifest)


def _weights(evaluated: Evaluated, device: str | None) -> ServedWeights:
    """With the model in this process where a device is named."""
    folder = evaluated.folder
    weights = ServedWeights(evaluated.version, folder, evaluated.policy, frozenset(evaluated.end_tokens), 0, 0)
    if device is not None:
        model = PolicyModel.load(folder, device=device)
        return replace(weights, vocabulary_size=model.vocabulary_size, context_length=model.context_length, model=model)
    described = ModelDescription.of({"config.json": (folder / "config.json").read_bytes()})
    return replace(weights, vocabulary_size=described.vocabulary_size, context_length=described.context_length)


def renderer_of(evaluated: Evaluated) -> PromptRenderer:
    return PromptRenderer(evaluated.folder)


def _spare_tokens(backend: str) -> int:
    if backend != "sglang":
        return 0
    from grail_core.generation.sglang import SglangGenerator

    return SglangGenerator.spare_tokens


def _interpreter(backend: str, settings: Settings) -> Path:
    """Of the engine's own environment, or this one if it has the engine."""
    variable = f"GRAIL_{backend.upper()}_PYTHON"
    python = settings.sglang_python if backend == "sglang" else settings.vllm_python
    if python is None and find_spec(backend) is not None:
        return Path(sys.executable)
    if python is None or not python.is_file():
        raise ConfigurationError(
            f"{backend} is not installed here" if python is None else "there is no such interpreter",
            where=variable if python is None else f"{variable}={python}",
            hint=f"set {variable} to the interpreter of an environment with {backend}, or name a running server with --url",
        )
    return python


def _weights_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
