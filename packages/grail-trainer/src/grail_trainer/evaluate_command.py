"""`grail-trainer evaluate`: from options to figures, environment by environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from grail_core.environment import Environment
from grail_core.errors import ConfigurationError
from grail_core.participant.settings import Settings
from grail_core.protocol.policy import policy_digest
from grail_core.telemetry.progress import Told, progress
from grail_core.text import printable
from grail_trainer.evaluate import Evaluation, Progress, draws_of, evaluate_with
from grail_trainer.evaluated import (
    Evaluated,
    at_once,
    environments_of,
    evaluated_checkpoint,
    evaluated_folder,
    renderer_of,
    serving,
)
from grail_trainer.graded_samples import SampleFile


@dataclass(frozen=True)
class EvaluationRequest:
    """What the command line asks for; either `model` or `checkpoint`."""

    model: Path | None
    checkpoint: str | None
    env_ids: tuple[str, ...]
    default_env_id: str
    problems: int
    samples: int
    backend: str
    url: str | None
    keep: Path | None  # a folder: one file of samples for each environment
    as_json: bool


def evaluate_command(settings: Settings, asked: EvaluationRequest) -> None:
    """One JSON object a line, or a few lines of text, for each environment."""
    if (asked.model is None) == (asked.checkpoint is None):
        raise ConfigurationError(
            "what is to be evaluated?" if asked.model is None else "one thing at a time can be evaluated",
            where="--model, --checkpoint",
            hint="--model FOLDER, or --checkpoint head of the network that the settings name",
        )
    if asked.checkpoint is not None:
        evaluated = evaluated_checkpoint(asked.checkpoint, settings)
    else:
        assert asked.model is not None
        evaluated = evaluated_folder(asked.model, settings)
    for note in evaluated.notes:
        click.echo(f"{evaluated.folder}: {printable(note)}", err=True)
    environments = environments_of(evaluated, asked.env_ids, asked.default_env_id, settings)
    renderer = renderer_of(evaluated)
    with serving(evaluated, asked.backend, asked.url, settings) as (generator, weights), progress() as bar:
        for environment in environments:
            result = evaluate_with(
                draws_of(generator),
                renderer,
                environment,
                context_length=weights.context_length,
                problems=asked.problems,
                samples=asked.samples,
                at_once=at_once(asked.backend),
                kept=_kept(asked, evaluated, environment),
                progress=_progress(bar, environment.spec.env_id),
            )
            _tell(result, as_json=asked.as_json)


def _kept(asked: EvaluationRequest, evaluated: Evaluated, environment: Environment) -> SampleFile | None:
    if asked.keep is None:
        return None
    asked.keep.mkdir(parents=True, exist_ok=True)
    what = {
        "weights": evaluated.version,
        "policy": policy_digest(evaluated.policy, evaluated.end_tokens, "none").hex(),
        "environment": environment.spec.digest.hex(),
        "samples": asked.samples,
        "backend": asked.backend,
    }
    return SampleFile(asked.keep / f"{environment.spec.env_id}.jsonl", what, block=at_once(asked.backend))


def _progress(bar: Told, env_id: str) -> Progress:
    return lambda done, total: bar(f"sampling {env_id}", done, total)


def _tell(result: Evaluation, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result.to_json()))
        return
    click.echo(f"environment   {result.env_id}, {result.problems} held-out problems, {result.samples} sample(s) each")
    click.echo(f"solved        {100 * result.success:6.2f} %  ± {100 * result.success_error:.2f}")
    for k, value in result.pass_at.items():
        if k > 1:
            click.echo(f"pass@{k:<8} {100 * value:6.2f} %  ± {100 * result.pass_at_error[k]:.2f}")
    click.echo(f"well formed   {100 * result.well_formed:6.2f} %  ± {100 * result.well_formed_error:.2f}")
    click.echo(f"reward        {result.reward:8.4f}")
    click.echo(f"tokens        {result.completion_tokens:8.1f}")
    click.echo(f"best constant {100 * result.constant:6.2f} %")
    if result.ungraded:
        click.echo(f"not graded    {result.ungraded} samples: the grader came to no result; they count as not solved")
