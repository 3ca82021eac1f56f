"""What is measured: a model, an environment, generator and prover as the settings say, without wallet, chain or bucket.

The window is made up: its seeds come from the run's number, so that no two runs draw the same rows and an engine's prefix cache
helps none of them more than it helps a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from grail_core.checkpoints.cache import MANIFEST_FILE
from grail_core.checkpoints.cached import CachedCheckpoint, read_checkpoint
from grail_core.checkpoints.loaded import LoadedCheckpoint, PreparedCheckpoint, description_of
from grail_core.checkpoints.pinned_table import shipped
from grail_core.environment import Environment
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.generation.defaults import sampling_defaults
from grail_core.generation.options import require_model_len
from grail_core.keys import LocalSigner
from grail_core.model.described import ModelDescription
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.participant.deployment import network_parameters
from grail_core.participant.settings import Settings
from grail_core.proof.numerics import class_name
from grail_core.protocol.context import WindowContext
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.manifest import CheckpointManifest, ObjectRef
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Digest, Window
from grail_envs.adapters.consent import consent_to
from grail_envs.registry import load
from grail_miner.bench.synthetic import synthetic_model
from grail_miner.equipment import engine_options, how_tokens_are_drawn, make_generator, make_prover
from grail_miner.layout import Layout
from grail_miner.mining import Mining, weights_of

_NOBODY = b"grail-miner bench".ljust(32, b"\0")  # signs nothing: its hotkey is in the seeds


@dataclass(frozen=True)
class Model:
    """A folder and how it is sampled. `what`: for a person."""

    folder: Path
    what: str
    manifest: CheckpointManifest
    synthetic: bool = False


@dataclass(frozen=True)
class Subject:
    """A `Mining` whose generator and prover have the model."""

    mining: Mining
    prepared: PreparedCheckpoint

    def context(self, run: int) -> WindowContext:
        block_hash = hashlib.sha256(b"grail-miner bench %d" % run).digest()
        manifest = self.prepared.manifest
        return WindowContext(LOCALNET, manifest.network_id, Window(0), block_hash, None, manifest)


def find_model(
    settings: Settings, folder: Path | None, environment: Environment | None, max_tokens: int, scratch: Path
) -> Model:
    """The folder that was named; else the newest checkpoint of the network in the cache; else a synthetic one in `scratch`.

    Args:
        environment: its problems are made, whatever a checkpoint says; None: the checkpoint's, which must be loaded.
        max_tokens: most of a completion, where no checkpoint says so.
    """
    if folder is not None:
        return Model(folder, f"the model in {folder}", _made_up(folder, environment, max_tokens))
    cached = _newest_cached(settings)
    if cached is not None:
        manifest = cached.manifest
        return Model(cached.folder, f"checkpoint {manifest.sequence} of the network, from the cache", manifest)
    made = synthetic_model(scratch / "synthetic")
    return Model(
        made,
        "a synthetic model of random weights, since no checkpoint is cached here: its figures are of no real model",
        _made_up(made, environment, max_tokens),
        synthetic=True,
    )


def _newest_cached(settings: Settings) -> CachedCheckpoint | None:
    """What an earlier run of a role left, with whole weights. A network that is not set up has left none."""
    try:
        trainer = network_parameters(settings).trainer_hotkey
    except ConfigurationError:
        return None
    found = []
    for path in sorted(settings.cache_dir.glob(f"checkpoints/*/checkpoints/*/{MANIFEST_FILE}")):
        try:
            checkpoint = read_checkpoint(path.parent, trainer)
        except CheckpointError:
            continue  # damaged, or of another network: it is made again where it is used
        if any(path.parent.glob("*.safetensors")):
            found.append(checkpoint)
    return max(found, key=lambda one: one.manifest.valid_from, default=None)


def _made_up(folder: Path, environment: Environment | None, max_tokens: int) -> CheckpointManifest:
    """What a trainer that published this folder would say of drawing. It is signed by nobody and goes nowhere."""
    assert environment is not None  # a folder names none
    defaults, renderer = sampling_defaults(folder), PromptRenderer(folder)
    nothing = Digest(bytes(32))
    manifest = CheckpointManifest(
        network_id=nothing,
        trainer=LocalSigner.from_seed(_NOBODY).hotkey,
        sequence=0,
        window=Window(0),
        valid_from=Window(0),
        parent=None,
        base=None,
        architecture="bench",
        weights_root=nothing,
        index=ObjectRef(0, nothing),
        files=(),
        shards=(),
        deltas=(),
        environment=environment.spec,
        policy=replace(defaults.policy, max_tokens=max_tokens),
        end_token_ids=defaults.end_tokens,
        tokenizer_digest=renderer.tokenizer_digest,
        chat_template_digest=renderer.chat_template_digest,
        thinking_mode="none",
    )
    return replace(manifest, body=canonical_json(manifest.to_json()))


@contextmanager
def set_up(settings: Settings, layout: Layout, model: Model, environment: Environment, state_dir: Path) -> Iterator[Subject]:
    """Generator and prover as `grail-miner run` has them, with the model; closed in the end, whatever happened.

    Raises:
        CheckpointError, EngineError, MachineFaultError: the model cannot be loaded, or does not fit.
        ProtocolViolationError: the engine has no room for the policy, or cannot follow it.
    """
    computing, engine = how_tokens_are_drawn(layout)
    drawn_by = class_name(attention=computing.attention, device=computing.device.partition(":")[0], engine=engine)
    with ExitStack() as closing:
        generator = make_generator(engine_options(settings, layout, state_dir), drawn_by)
        closing.callback(generator.close)
        prover = make_prover(layout)
        closing.callback(prover.close)
        prepared = _prepared(model, layout)
        if not layout.in_process:
            require_model_len(settings.pipeline_max_model_len, model.manifest.policy, prepared.description.context_length)
        prover.load(prepared)
        generator.serve(weights_of(prepared))
        signer = LocalSigner.from_seed(_NOBODY)
        mining = Mining(signer, _Fixed(prepared), lambda _manifest: environment, 1, generator, prover)
        yield Subject(mining, prepared)


def _prepared(model: Model, layout: Layout) -> PreparedCheckpoint:
    renderer = PromptRenderer(model.folder, model.manifest.thinking_mode)
    if layout.generation_device is None:
        description = ModelDescription.of({"config.json": (model.folder / "config.json").read_bytes()})
        return PreparedCheckpoint(model.manifest, model.folder, renderer, description, shipped())
    loaded = PolicyModel.load(model.folder, device=layout.generation_device)
    return LoadedCheckpoint(model.manifest, model.folder, renderer, description_of(loaded), shipped(), loaded)


@dataclass(frozen=True)
class _Fixed:
    prepared: PreparedCheckpoint

    def at(self, manifest: CheckpointManifest) -> PreparedCheckpoint:
        return self.prepared


def environment_for(settings: Settings, env_id: str) -> Environment:
    """Raises: EnvironmentUnavailableError: there is none of this id, or its data is not there."""
    consent_to(env_id)  # whoever started this command typed it
    return load(env_id, data_dir=settings.data_dir)
