"""How a network of gradient work begins: a float32 model folder, whole, as the first checkpoint, with the numbers of a preset.

The manifest's environment is the gradient spec from then on. Nothing is trained here: merges of the miners' updates follow.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import DTYPES, RawState
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.generation.defaults import sampling_defaults
from grail_core.model.prompts import PromptRenderer
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.protocol import window_of
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.gradient.rounds import require_room
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_core.storage.layout import manifest_key
from grail_core.telemetry import get_logger
from grail_core.telemetry.json_output import say
from grail_envs.corpus import bytes_1
from grail_envs.corpus.opening import corpus_of
from grail_trainer.gradient_presets import preset
from grail_trainer.publishing.publication import NO_CHOICE, TableChoice
from grail_trainer.start import require_trainer
from grail_trainer.tiny.gradient_model import create

log = get_logger(__name__)


def begin_gradient_network(
    settings: Settings, *, out: Path, seed: int, preset_name: str, choice: TableChoice = NO_CHOICE
) -> CheckpointManifest:
    """Make the model folder, unless it is there, join the network and publish its first checkpoint; see `publish_first`."""
    spec = preset(preset_name)
    participant = Participant.from_settings(settings)
    require_trainer(participant)
    environment = environment_of(spec, participant)
    if not (out.is_dir() and any(out.iterdir())):
        create(out, seed)
    with participant.state.held():
        participant.join(settings)
        return publish_first(participant, out, environment, choice=choice)


def begin_gradient_command(
    settings: Settings,
    *,
    out: Path,
    seed: int,
    preset_name: str | None,
    calibration: Path | None,
    uncovered: bool,
    as_json: bool = False,
) -> None:
    """`grail-trainer init --work gradient`. Errors: as `begin_gradient_network`."""
    if preset_name is None:
        raise ConfigurationError(
            "a network of gradient work begins with the numbers of a preset", where="--preset", hint="--preset tiny"
        )
    choice = TableChoice.of(calibration, uncovered=uncovered)
    manifest = begin_gradient_network(settings, out=out, seed=seed, preset_name=preset_name, choice=choice)
    value = {"folder": str(out), "sequence": 0, "digest": manifest.digest.hex(), "valid_from": manifest.valid_from}
    said = f"checkpoint {manifest.sequence} ({manifest.digest.hex()[:16]}…), in force from round {manifest.valid_from}"
    say(said, value, as_json=as_json)


def environment_of(spec: GradientSpec, participant: Participant) -> EnvironmentSpec:
    """What the manifest names.

    Raises:
        ConfigurationError: the network's offsets leave no room for such rounds.
        EnvironmentUnavailableError: the corpus is not there, or is not what the spec says.
    """
    try:
        require_room(spec, participant.params)
    except ValueError as error:
        raise ConfigurationError(
            f"this network's times leave no room for these rounds: {error}", where=participant.params.name
        ) from error
    environment = spec.environment(bytes_1.DIGEST)
    corpus_of(environment)
    return environment


def publish_first(
    participant: Participant, folder: Path, environment: EnvironmentSpec, *, choice: TableChoice = NO_CHOICE
) -> CheckpointManifest:
    """Publish a folder's float32 weights, whole, as the network's first checkpoint; called again, it finds what it published.

    Raises:
        ConfigurationError: the network has begun with something else.
        CheckpointError: the weights are not float32, not finite, or the files are none of a checkpoint.
    """
    files, state = read_model_files(folder), map_weights(folder)
    _require_float32(state, folder)
    defaults = sampling_defaults(folder)
    PromptRenderer(folder)
    bucket, spec = participant.own_checkpoints, GradientSpec.of(environment)
    standing = bucket.sequence()
    if standing.head is not None:
        first = standing.stored[0].manifest
        if first.environment != environment or first.weights_root != digest_state(state).root:
            raise ConfigurationError(
                "this network has a first checkpoint already, and it is another",
                where=manifest_key(first.valid_from),
                hint="a network begins once; use another bucket for another one",
            )
        return first
    block = participant.chain.current_block()
    parts = CheckpointParts(
        network_id=participant.network_id,
        window=window_of(block),
        valid_from=Window(block - block % spec.round_blocks + spec.round_blocks),
        environment=environment,
        policy=defaults.policy,
        end_token_ids=defaults.end_tokens,
        thinking_mode="none",
    )
    parts = replace(parts, calibration=choice.table, uncovered=choice.uncovered)
    manifest = publish(bucket, parts, state, files, participant.signer, participant.params)
    log.event(
        "gradient_network_begun", valid_from=manifest.valid_from, parameters=sum(t.layout.elements for t in state.values())
    )
    return manifest


def _require_float32(state: RawState, folder: Path) -> None:
    """Bits of infinities and NaN have all exponent bits set."""
    for name, tensor in state.items():
        form = tensor.layout.dtype
        if form is not DTYPES["F32"]:
            raise CheckpointError(
                f"gradient work is done on float32 weights, these are {form.name}",
                where=f"{folder}: {name}",
                hint="save the model in float32: model.float().save_pretrained(folder)",
            )
        if bool(((tensor.bits >> form.exponent_shift) & form.exponent_mask == form.exponent_mask).any()):
            raise CheckpointError("the weights are not finite", where=f"{folder}: {name}", hint="this model is broken")
