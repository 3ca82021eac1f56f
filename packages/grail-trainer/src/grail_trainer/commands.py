"""What `grail-trainer init`, `inspect` and `run --dry-run` do between the command line and the library."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.environment import Environment
from grail_core.errors import CheckpointError
from grail_core.participant.settings import Settings
from grail_core.telemetry.json_output import say
from grail_core.telemetry.progress import progress
from grail_core.text import printable, printable_lines

if TYPE_CHECKING:
    from grail_core.checkpoints.delta.tensors import RawTensor
    from grail_trainer.evaluation_settings import BesideSettings
    from grail_trainer.hyper_parameters import HyperParameters
    from grail_trainer.publishing.publication import TableChoice

_CONFIG = "config.json"
_OF_ONE_MODEL = "config.json and weights must be of one model: save it anew with save_pretrained(folder)"


def training_environment(env_id: str, data_dir: Path | None) -> Environment:
    """The environment as a network would use it, with the data folder of the settings where it reads one.

    Raises:
        EnvironmentUnavailableError: unknown, or its data set is not there.
    """
    from grail_envs import load
    from grail_envs.adapters.consent import consent_to

    consent_to(env_id)  # whoever started this command typed it
    return load(env_id, data_dir=data_dir)


def init_command(
    settings: Settings,
    *,
    env_id: str,
    out: Path,
    seed: int,
    quick: bool,
    cached: bool,
    shape: str | None = None,
    most_steps: int | None = None,
    as_json: bool = False,
) -> None:
    from grail_core.capabilities import teacher_of
    from grail_core.examination.folders import Folder, of_role, require_folders
    from grail_trainer.tiny.init import config_for, create_model, shaped

    require_folders(Folder("model", "--out", out), *of_role(settings)[:1])
    environment = training_environment(env_id, settings.data_dir)
    config = config_for(environment)
    if shape is not None:
        config = shaped(config, shape)
    if most_steps is not None:
        config = dataclasses.replace(config, most_steps=most_steps)
    with progress() as bar:

        def told(stage: str, done: int, total: int, loss: float) -> None:
            bar(stage, done, total, f"loss {loss:.3f}")

        cache_dir = settings.cache_dir if cached else None
        create_model(environment, out, seed=seed, quick=quick, config=config, cache_dir=cache_dir, progress=told)
    if not teacher_of(environment).stages:
        click.echo(f"{env_id} offers no capability `teacher`: the weights are random, no answer's form is known", err=True)
    said = f"{out}: a tiny model for {env_id}; try `grail-trainer evaluate --model {out} --env {env_id}`"
    say(said, {"folder": str(out), "environment": env_id, "seed": seed}, as_json=as_json, err=True)


def import_command(source: Path, out: Path, *, as_json: bool = False) -> None:
    from grail_core.checkpoints.transfer import import_model, save_imported

    model = import_model(source, for_network=True)
    for note in model.notes:
        click.echo(f"{source}: {printable(note)}", err=True)
    save_imported(model, out, check=lambda written: _require_agreement(written, source))
    publish = f"grail-trainer publish --model {shlex.quote(str(out))}"
    said = f"{out}: {model.parameters:,} parameters, {model.nbytes:,} bytes; publish it with `{publish}`"
    say(said, {"folder": str(out), "parameters": model.parameters, "bytes": model.nbytes}, as_json=as_json, err=True)


def _require_agreement(folder: Path, source: Path) -> None:
    """What is about to be published, loaded as it would be and decoded as miners do: it must be what the proof computes."""
    from transformers import logging

    from grail_core.generation.agreement import check_agreement
    from grail_core.model.policy_model import PolicyModel

    with _said_of(source, folder):
        other = _require_all_weights(folder)
        logging.set_verbosity_error()  # its table of tensors names a folder that is gone
        try:
            loaded = PolicyModel.load(folder, dtype="float32")
        except CheckpointError as error:
            if not other:
                raise
            raise CheckpointError(f"the weights do not fit: {other}", where=str(folder), hint=_OF_ONE_MODEL) from error
        check_agreement(loaded)


@contextmanager
def _said_of(source: Path, written: Path) -> Iterator[None]:
    """What is wrong is wrong with the folder that a person named; the written one is gone by then."""
    try:
        yield
    except CheckpointError as error:
        beside = error.where.replace(str(written), "").strip(": /")
        what = error.what.replace(str(written), str(source))
        where = f"{source}: {beside}" if beside else str(source)
        raise type(error)(what, where=where, hint=error.hint or "save the model anew with save_pretrained(folder)") from error


def _require_all_weights(folder: Path) -> str:
    """The first tensor of another shape, empty if there is none. A loader makes the whole model of a configuration before it
    misses a tensor: a few bytes would cost all memory."""
    from grail_core.checkpoints.delta.shards import map_weights
    from grail_core.model.skeleton import skeleton

    config = json.loads((folder / _CONFIG).read_text("utf-8"))
    if not isinstance(config.get("model_type"), str):
        return ""
    made, saved = dict(skeleton(config).named_parameters()), map_weights(folder)
    wanted = sum(parameter.numel() for parameter in made.values())
    held = sum(tensor.layout.elements for tensor in saved.values())
    other = _other_shape({name: tuple(one.shape) for name, one in made.items()}, saved)
    if held < wanted:
        missing = [name for name in made if name not in saved]
        first = f"{missing[0]} is missing" if 0 < len(missing) < len(made) else ""
        because = f": {other or first}" if other or first else ""
        raise CheckpointError(
            f"the folder holds {held:,} weights, and its configuration makes a model of {wanted:,}{because}",
            where=str(folder),
            hint=_OF_ONE_MODEL,
        )
    return other


def _other_shape(made: dict[str, tuple[int, ...]], saved: Mapping[str, RawTensor]) -> str:
    """Known where names are the model's own; a saved model may have others."""
    for name, shape in made.items():
        if name in saved and saved[name].layout.shape != shape:
            return f"{name} is saved with the shape {list(saved[name].layout.shape)}, not {list(shape)}"
    return ""


def plan_command(
    settings: Settings,
    *,
    model: Path,
    env_id: str,
    windows: int | None,
    chosen: HyperParameters,
    beside: BesideSettings,
    choice: TableChoice,
    as_json: bool,
) -> None:
    from grail_trainer.run_plan import plan_run

    plan = plan_run(settings, model=model, env_id=env_id, windows=windows, chosen=chosen, beside=beside, choice=choice)
    click.echo(json.dumps(plan.to_json()) if as_json else printable_lines("\n".join(plan.lines())))


def inspect_command(settings: Settings, *, as_json: bool, objects: bool) -> None:
    from grail_core.checkpoints.source import CheckpointSource
    from grail_core.participant.deployment import network_parameters, open_chain, open_directory

    params = network_parameters(settings)
    chain = open_chain(settings)
    directory = open_directory(settings, params, chain)
    source = CheckpointSource(
        chain,
        directory,
        params,
        params.network_id(chain.genesis_hash),
        settings.cache_dir,
        cache_limit_bytes=settings.checkpoint_cache_gib << 30,
    )
    report = source.inspect(check_objects=objects)
    click.echo(json.dumps(report.to_json()) if as_json else printable_lines("\n".join(report.lines())))
    if any(row.missing for row in report.rows):
        raise CheckpointError("objects that a checkpoint names are missing", hint="see the rows above; publish them again")
