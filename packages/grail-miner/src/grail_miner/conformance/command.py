"""`grail-miner conformance`: which checkpoint, which engine, and what is printed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from grail_core.checkpoints.cache import MANIFEST_FILE
from grail_core.checkpoints.cached import CachedCheckpoint, read_checkpoint
from grail_core.errors import CheckpointError, ConfigurationError, ProtocolViolationError
from grail_core.generation.base import Generator, ServedWeights
from grail_core.generation.defaults import sampling_defaults
from grail_core.generation.options import Backend, EngineOptions
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.participant.deployment import network_parameters
from grail_core.participant.settings import Settings
from grail_core.proof.numerics import numerics_class_of
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Hotkey
from grail_core.telemetry.console import PlainConsole
from grail_miner.conformance.report import ConformanceReport, lines, to_json
from grail_miner.conformance.run import Verifier, conformance, probes_for


@dataclass(frozen=True)
class ConformanceRequest:
    """What the command line asks for. `checkpoint` None: the newest one in the cache."""

    engine: Backend
    url: str | None
    checkpoint: Path | None = None
    groups: int = 64
    tokens: int = 64  # of a completion, at most
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


def conformance_command(settings: Settings, asked: ConformanceRequest, *, as_json: bool) -> None:
    """Print whether the engine draws as a verifier does.

    Raises:
        ProtocolViolationError: it does not. EngineError: it fails. CheckpointError: there is no checkpoint to hold it against.
    """
    report = check_engine(settings, asked)
    if as_json:
        click.echo(json.dumps(to_json(report), indent=2))
    else:
        console = PlainConsole()
        for line in lines(report):
            console.say(line)
    if not report.conforms:
        raise ProtocolViolationError(
            f"the engine does not draw as a verifier does: {report.reading.agreement:.2%} of its tokens agree",
            where=asked.url or asked.engine,
            hint=report.causes[0].advice if report.causes else "docs/conformance.md says how to read the lines above",
        )


def check_engine(settings: Settings, asked: ConformanceRequest) -> ConformanceReport:
    """Make the engine serve the checkpoint, ask it, and hold its answers against our own model."""
    with opened(asked.engine, asked.url) as generator:  # asks nothing yet: a wrong address is told before a model is loaded
        found = _checkpoint(settings, asked)
        model = PolicyModel.load(found.folder, device=settings.device)
        weights = replace(
            found,
            vocabulary_size=model.vocabulary_size,
            context_length=model.context_length,
            model=model,
            policy=_policy(found, asked),
        )
        verifier = Verifier(model, _renderer(found.folder), _folder_policy(found.folder))
        generator.serve(weights)
        return conformance(generator, weights, verifier, probes_for(weights, verifier, asked.groups))


@contextmanager
def opened(engine: Backend, url: str | None) -> Iterator[Generator]:
    """A client of a server that runs already; `hf` runs here. Closed afterwards."""
    generator: Generator
    if engine == "hf":
        from grail_core.generation.in_process import InProcessGenerator

        generator = InProcessGenerator(numerics_class_of)
    else:
        if url is None:
            raise ConfigurationError(
                f"{engine} runs in a server: where?", where="--backend", hint="--backend http://127.0.0.1:PORT"
            )
        options = EngineOptions(engine, url=url)
        told = f"bf16-flash-cuda-{engine}"
        if engine == "sglang":
            from grail_core.generation.sglang import SglangGenerator

            generator = SglangGenerator(url, options, numerics_class=told)
        else:
            from grail_core.generation.vllm import VllmGenerator

            generator = VllmGenerator(url, options, numerics_class=told)
    try:
        yield generator
    finally:
        generator.close()


def _checkpoint(settings: Settings, asked: ConformanceRequest) -> ServedWeights:
    """The folder that was named, else the newest of the cache; sizes are filled in once the model is loaded."""
    folder = asked.checkpoint
    trainer: Hotkey | None = None
    if folder is None:
        try:
            trainer = network_parameters(settings).trainer_hotkey
        except ConfigurationError as error:
            hint = f"name a model's folder with --checkpoint; or, for the newest of the cache, {error.hint}"
            raise ConfigurationError(error.what, where=error.where, hint=hint) from error
        folder = _newest(settings.cache_dir, trainer)
    if (folder / MANIFEST_FILE).is_file() and (trainer or (trainer := _trainer(settings))):
        manifest = read_checkpoint(folder, trainer).manifest
        return ServedWeights(manifest.digest.hex(), folder, manifest.policy, frozenset(manifest.end_token_ids), 0, 0)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "this is no model's folder: it has no config.json",
            where=str(folder),
            hint="name a folder with config.json and safetensors files",
        )
    defaults = sampling_defaults(folder)
    return ServedWeights(_digest(folder), folder, defaults.policy, frozenset(defaults.end_tokens), 0, 0)


def _trainer(settings: Settings) -> Hotkey | None:
    """Who signs manifests; None where the settings name no network that has a trainer: an exported folder is a model then."""
    try:
        return network_parameters(settings).trainer_hotkey
    except ConfigurationError:
        return None


def _newest(cache_dir: Path, trainer: Hotkey) -> Path:
    found: list[CachedCheckpoint] = []
    for folder in sorted((cache_dir / "checkpoints").glob("*/checkpoints/*")):
        if (folder / MANIFEST_FILE).is_file():
            try:
                found.append(read_checkpoint(folder, trainer))
            except CheckpointError:
                continue  # a cache may be damaged, or of another network; it is made again where it is used
    if not found:
        raise CheckpointError(
            "no checkpoint of this network is in the cache",
            where=str(cache_dir),
            hint="name a model's folder with --checkpoint, or let `grail-miner run` fetch one first",
        )
    return max(found, key=lambda one: one.manifest.valid_from).folder


def _policy(weights: ServedWeights, asked: ConformanceRequest) -> GenerationPolicy:
    policy = weights.policy
    return replace(
        policy,
        max_tokens=min(policy.max_tokens, asked.tokens),
        temperature=policy.temperature if asked.temperature is None else asked.temperature,
        top_k=policy.top_k if asked.top_k is None else asked.top_k,
        top_p=policy.top_p if asked.top_p is None else asked.top_p,
    )


def _folder_policy(folder: Path) -> GenerationPolicy | None:
    """None where it says nothing of drawing."""
    try:
        policy = sampling_defaults(folder).policy
    except CheckpointError:
        return None  # whatever it says, no engine could follow it as a policy
    return None if policy == GenerationPolicy(policy.max_tokens) else policy


def _renderer(folder: Path) -> PromptRenderer | None:
    return PromptRenderer(folder) if (folder / "tokenizer.json").is_file() else None


def _digest(folder: Path) -> str:
    """Of the folder's weights: what the engine is told to call them."""
    state = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()
