"""`grail-envs`: list environments, show a problem, grade a completion, check and measure an environment; corpora.

The command line only parses and prints; every decision is in the library. With `--json`, stdout carries one JSON value and
nothing else. An error of the project ends with its own exit code (docs/operations.md).
"""

from __future__ import annotations

import inspect
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from grail_core.commands.last_resort import as_error
from grail_core.commands.options import fit_streams, leave
from grail_core.environment import Environment, Grade
from grail_core.errors import ConfigurationError, GrailError
from grail_core.telemetry.json_output import json_option, print_error, print_wrong_usage, say
from grail_core.text import printable, printable_lines
from grail_envs.adapters.consent import consent_to, consent_to_package
from grail_envs.corpus.commands import corpus
from grail_envs.new_environment import new
from grail_envs.registry import ADAPTERS, OURS, claims, factory, known_ids, load, named, parameters_of

MAX_COMPLETION_BYTES = 16 * 2**20


class _Group(click.Group):
    """A group that turns errors into one message and their exit code, as the roles' commands do."""

    def main(self, *args: Any, **more: Any) -> Any:
        fit_streams()
        try:
            return super().main(*args, **more)
        except SystemExit as ended:
            leave(ended.code if isinstance(ended.code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except click.ClickException as wrong:
            print_wrong_usage(wrong)
            ctx.exit(wrong.exit_code)
        except Exception as unknown:  # noqa: BLE001 - whatever it is, a person gets one message
            error = as_error(unknown)
            with suppress(OSError):
                print_error(error)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="grail-envs")
def main() -> None:
    """Problems, parsers and rewards, the same from a seed on every machine."""


main.add_command(corpus)
main.add_command(new)


def environment_options(command: Any) -> Any:
    """The options with which every command names an environment's parameters."""
    command = click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Folder with the data sets (default: GRAIL_DATA_DIR)."
    )(command)
    return click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")(command)


def load_from_options(env_id: str, params: tuple[str, ...], data_dir: Path | None) -> Environment:
    """The environment that the options name. Who typed a foreign package's name lets its code run."""
    parameters = parameters_from_options(env_id, params, data_dir)
    consent_to(env_id, parameters)
    return load(env_id, **parameters)


def parameters_from_options(env_id: str, params: tuple[str, ...], data_dir: Path | None) -> dict[str, Any]:
    """The parameters that the options name; a value is read as JSON where it is JSON, else as text."""
    given = parameters_of(params, where="--param")
    if data_dir is not None:
        given.setdefault("data_dir", str(data_dir))
    return given


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_command(as_json: bool) -> None:
    """The installed environments and their parameters."""
    rows: list[dict[str, Any]] = []
    for env_id in [*known_ids(), *ADAPTERS]:
        try:
            make = factory(env_id)
            about = (inspect.getdoc(make) or "").partition("\n")[0]
            rows.append({"id": env_id, "about": about, "parameters": _parameters(make), "problem": ""})
        except GrailError as error:
            rows.append({"id": env_id, "about": "", "parameters": {}, "problem": error.what})
    if as_json:
        click.echo(json.dumps(rows))
        return
    from rich.table import Table

    from grail_core.telemetry.console import PlainConsole

    table = Table("id", "about", "parameters")
    for row in rows:
        parameters = ", ".join(f"{name}={value}" for name, value in row["parameters"].items())
        table.add_row(row["id"], f"[red]{row['problem']}[/red]" if row["problem"] else row["about"], parameters)
    PlainConsole().print(table)


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
        click.echo(printable_lines(f"\n[{message.role}]\n{message.content}"))


@main.command()
@click.argument("env_id", metavar="ID")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), required=True)
@click.option("--completion", type=click.File("rb"), required=True, help="File with the completion; - reads stdin.")
@environment_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def grade(env_id: str, seed: int, completion: Any, params: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Grade a completion. Exit code 0 whatever the verdict: grading worked."""
    env = load_from_options(env_id, params, data_dir)
    raw = completion.read(MAX_COMPLETION_BYTES + 1)
    if len(raw) > MAX_COMPLETION_BYTES:
        raise ConfigurationError(
            f"the completion has more than {MAX_COMPLETION_BYTES} bytes",
            where=str(getattr(completion, "name", "-")),
            hint="completions of the protocol are far smaller",
        )
    grade = env.grade(env.problem(seed), raw.decode("utf-8", errors="replace"))
    fields = grade_fields(grade)
    if as_json:
        click.echo(json.dumps({"id": env_id, "seed": seed, "digest": env.spec.digest.hex(), **fields}))
        return
    verdict = "success" if grade.success else "no success"
    click.echo(printable(f"{verdict}, reward {grade.reward:g}" + (f": {grade.detail}" if grade.detail else "")))
    for name, value in grade.components.items():
        click.echo(f"  {name:<12} {value:g}")


@main.command("time")
@click.argument("env_id", metavar="ID")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), required=True)
@click.option("--completion", type=click.File("rb"), required=True, help="File with the completion; - reads stdin.")
@environment_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def time_command(
    env_id: str, seed: int, completion: Any, params: tuple[str, ...], data_dir: Path | None, as_json: bool
) -> None:
    """Grade a kernel, then time it on a GPU beside what it replaces (KERNEL_EVAL_BACKEND, GRAIL_GPU_EVAL). Changes no grade."""
    from grail_envs.kernels.gpu.devices import need_gpus
    from grail_envs.kernels.gpu.settings import TimingSettings

    if named(env_id)[0] != "triton_kernel":
        raise ConfigurationError(f"nothing of {env_id} can be timed", where=env_id, hint="only kernels are: triton_kernel")
    settings = TimingSettings.of()
    need_gpus(settings.gpus)  # before anything large is loaded
    from grail_envs.kernels.environment import TritonKernelEnvironment
    from grail_envs.kernels.gpu.report import timed_report
    from grail_envs.kernels.gpu.workers import Workers

    env = load_from_options(env_id, params, data_dir)
    if not isinstance(env, TritonKernelEnvironment):
        raise ConfigurationError(f"nothing of {env_id} can be timed", where=env_id, hint="only kernels are: triton_kernel")
    judgement = env.judgement(env.problem(seed), completion.read(MAX_COMPLETION_BYTES).decode("utf-8", errors="replace"))
    if judgement is None:
        raise ConfigurationError("the completion holds no Python block", where="--completion", hint="end it with one")
    workers = Workers(settings)
    try:
        report = timed_report(judgement, workers)
    finally:
        workers.close()
    fields = {**grade_fields(report.grade), **report.fields()}
    if as_json:
        click.echo(json.dumps({"id": env_id, "seed": seed, **fields}))
        return
    for name, value in fields.items():
        click.echo(printable(f"{name:<14} {'not measured' if value is None else value}"))


@main.command()
@click.argument("package", metavar="PACKAGE")
@click.option("--seeds", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--answer", type=click.File("rb"), help="File with a right answer to seed 0: it has to be a success.")
@environment_options
@click.option("--json", "as_json", is_flag=True, help="One JSON array of findings.")
def check(package: str, seeds: int, answer: Any, params: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Check the environments of an installed PACKAGE, or one environment by its id. Exit code 1 if a check fails.

    A package of `verifiers`, or one with --param entry=module:Class, is checked by way of its adapter (docs/adapters.md): its
    code runs here, since you typed its name. What is being tried is said on stderr.
    """
    from grail_envs.adapters.checks import environments_of, foreign_findings
    from grail_envs.conformance import check as run_checks

    right = answer.read(MAX_COMPLETION_BYTES).decode("utf-8", errors="replace") if answer else None
    findings = []
    if package not in ADAPTERS and OURS not in claims(package):
        consent_to_package(package)
        consent_to(package)  # it may be the id of an environment, whose wheel has another name
    for env_id, parameters in environments_of(package, parameters_from_options(package, params, data_dir)):
        consent_to(env_id, parameters)
        click.echo(f"{env_id}: loading, and {seeds} problems in three processes", err=True)
        findings += run_checks(env_id, parameters, seeds=seeds)
        findings += foreign_findings(env_id, parameters, answer=right, progress=lambda what: click.echo(f"  {what}", err=True))
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings]))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.passed else 'FAIL'} {finding.env_id:<14} {finding.check:<17} {finding.value}")
    if not all(finding.passed for finding in findings):
        raise SystemExit(1)


@main.command()
@click.argument("env_id", metavar="ID")
@click.option("--seeds", type=click.IntRange(10, 100_000), default=1000, show_default=True)
@environment_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def bench(env_id: str, seeds: int, params: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """How fast problems are made and a wrong answer is graded, here."""
    import statistics
    import time

    env = load_from_options(env_id, params, data_dir)
    made, graded = [], []
    for seed in range(seeds):
        started = time.perf_counter()
        problem = env.problem(seed)
        made.append(time.perf_counter() - started)
    problem = env.problem(0)
    for _ in range(min(seeds, 100)):
        started = time.perf_counter()
        env.grade(problem, "<answer>0</answer>\n```python\npass\n```")
        graded.append(time.perf_counter() - started)
    figures = {
        f"env.generate_ms.{env_id}": 1000 * statistics.median(made),
        f"env.generate_worst_ms.{env_id}": 1000 * max(made),
        f"env.grade_per_s.{env_id}": 1 / statistics.median(graded),
    }
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:<40} {value:.4g}")


@main.command()
@click.argument("env_id", metavar="ID")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--problems", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Of seeds 0, 1, …")
@environment_options
@json_option
def export(env_id: str, folder: Path, problems: int, params: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Write one of our environments as a package of `verifiers`, for others to train on."""
    from grail_envs.adapters import export as exporting

    written = exporting.export(load_from_options(env_id, params, data_dir), folder, problems)
    say(
        f"{folder}: {len(written)} files; `pip install {folder}`, then `vf-eval` or any trainer that takes such a package",
        {"folder": str(folder), "files": sorted(map(str, written)), "problems": problems},
        as_json=as_json,
    )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(as_json: bool) -> None:
    """Which layers the sandbox has on this machine. Exit code 7 if `strict` would refuse."""
    from grail_envs.sandbox import GraderPool
    from grail_envs.sandbox.pool import LAYERS, SandboxUnavailableError

    pool = GraderPool("auto", lanes=1)
    layers, problems = dict(pool.layers), dict(pool.problems)
    pool.close()
    if as_json:
        click.echo(json.dumps({"layers": layers, "problems": problems}))
    else:
        for name, value in layers.items():
            click.echo(f"{name:<18} {value if value else 'no: ' + problems.get(name, 'not there')}")
    if not all(layers.get(layer) for layer in LAYERS):
        raise SandboxUnavailableError("the sandbox is not complete here", where="doctor", hint="see the layers above")


def grade_fields(grade: Grade) -> dict[str, Any]:
    """A grade as JSON."""
    return {
        "outcome": grade.outcome.value,
        "reward": grade.reward,
        "success": grade.success,
        "well_formed": grade.well_formed,
        "components": dict(grade.components),
        "limit_share": grade.limit_share,
        "detail": grade.detail,
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
