"""`grail-envs`: list environments, show a problem, judge a completion.

The command line only parses and prints; every decision is in the library. With `--json`, stdout carries one JSON value and
nothing else. An error of the project ends with its own exit code (docs/operations.md).
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import click

from grail_core.environment import Environment, Judgement
from grail_core.errors import ConfigurationError, GrailError
from grail_envs.registry import factory, known_ids, load

MAX_COMPLETION_BYTES = 16 * 2**20


class _Group(click.Group):
    """A group that turns the project's errors into one message and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GrailError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="grail-envs")
def main() -> None:
    """Problems, parsers and rewards, the same from a seed on every machine."""


def environment_options(command: Any) -> Any:
    """The options with which every command names an environment's parameters."""
    command = click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Folder with the data sets (default: GRAIL_DATA_DIR)."
    )(command)
    return click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")(command)


def load_from_options(env_id: str, params: tuple[str, ...], data_dir: Path | None) -> Environment:
    """The environment that the options name; a value is read as JSON where it is JSON, else as text."""
    given: dict[str, Any] = {}
    for item in params:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"{item!r} is no parameter", where="--param", hint="write --param NAME=VALUE")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    if data_dir is not None and "data_dir" in inspect.signature(factory(env_id)).parameters:
        given.setdefault("data_dir", str(data_dir))
    return load(env_id, **given)


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_command(as_json: bool) -> None:
    """The installed environments and their parameters."""
    rows: list[dict[str, Any]] = []
    for env_id in known_ids():
        try:
            make = factory(env_id)
            about = (inspect.getdoc(make) or "").partition("\n")[0]
            rows.append({"id": env_id, "about": about, "parameters": _parameters(make), "problem": ""})
        except GrailError as error:
            rows.append({"id": env_id, "about": "", "parameters": {}, "problem": error.what})
    if as_json:
        click.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "about", "parameters")
    for row in rows:
        parameters = ", ".join(f"{name}={value}" for name, value in row["parameters"].items())
        table.add_row(row["id"], f"[red]{row['problem']}[/red]" if row["problem"] else row["about"], parameters)
    Console().print(table)


@main.command()
@click.argument("env_id", metavar="ID")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@environment_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(env_id: str, seed: int, params: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """One problem as the model is asked it, with the environment's digest."""
    env = load_from_options(env_id, params, data_dir)
    problem = env.problem(seed)
    messages = env.messages(problem)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "id": env_id,
                    "seed": seed,
                    "digest": env.spec.digest.hex(),
                    "spec": env.spec.to_json(),
                    "messages": [{"role": message.role, "content": message.content} for message in messages],
                }
            )
        )
        return
    click.echo(f"{env_id}  seed {seed}  digest {env.spec.digest.hex()}")
    for message in messages:
        click.echo(f"\n[{message.role}]\n{message.content}")


@main.command()
@click.argument("env_id", metavar="ID")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), required=True)
@click.option("--completion", type=click.File("rb"), required=True, help="File with the completion; - reads stdin.")
@environment_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def judge(env_id: str, seed: int, completion: Any, params: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Judge a completion. Exit code 0 whatever the verdict: judging worked."""
    env = load_from_options(env_id, params, data_dir)
    raw = completion.read(MAX_COMPLETION_BYTES + 1)
    if len(raw) > MAX_COMPLETION_BYTES:
        raise ConfigurationError(
            f"the completion has more than {MAX_COMPLETION_BYTES} bytes",
            where=str(getattr(completion, "name", "-")),
            hint="completions of the protocol are far smaller",
        )
    judgement = env.judge(env.problem(seed), raw.decode("utf-8", errors="replace"))
    fields = judgement_fields(judgement)
    if as_json:
        click.echo(json.dumps({"id": env_id, "seed": seed, "digest": env.spec.digest.hex(), **fields}))
        return
    verdict = "success" if judgement.success else "no success"
    click.echo(f"{verdict}, reward {judgement.reward:g}" + (f": {judgement.detail}" if judgement.detail else ""))
    for name, value in judgement.components.items():
        click.echo(f"  {name:<12} {value:g}")


def judgement_fields(judgement: Judgement) -> dict[str, Any]:
    """A judgement as JSON."""
    return {
        "outcome": judgement.outcome.value,
        "reward": judgement.reward,
        "success": judgement.success,
        "well_formed": judgement.well_formed,
        "components": dict(judgement.components),
        "limit_share": judgement.limit_share,
        "detail": judgement.detail,
    }


def _parameters(make: Any) -> dict[str, Any]:
    signature = inspect.signature(make)
    return {
        name: None if parameter.default is parameter.empty else parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


if __name__ == "__main__":
    sys.exit(main())
