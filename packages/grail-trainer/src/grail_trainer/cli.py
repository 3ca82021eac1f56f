"""`grail-trainer`: make a model, learn from verified rollouts, publish checkpoints. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from grail_core.commands.doctor_watch import watch_options
from grail_core.commands.knob_options import SectionedCommand, section_options
from grail_core.commands.options import (
    beacon_option,
    common_options,
    examined_options,
    run_cli,
    stop_on_signals,
    verbose_option,
)
from grail_core.errors import ConfigurationError
from grail_core.telemetry.json_output import json_option
from grail_envs import DEFAULT_ENV_ID
from grail_trainer import __version__
from grail_trainer.evaluation_settings import BesideSettings
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.upgrade_commands import upgrade

if TYPE_CHECKING:
    from grail_core.participant.settings import Resolution, Settings

_FOLDER = click.Path(path_type=Path, file_okay=False)


_TABLE_OPTIONS = (
    click.option(
        "--calibration",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Calibration table that checkpoints pin from now on (default: that of the one before, first the shipped one).",
    ),
    click.option(
        "--uncovered",
        is_flag=True,
        help="Publish although that table does not cover this model: work is judged by the coarse bounds alone then.",
    ),
)


def table_options(command: Callable[..., None]) -> Callable[..., None]:
    """What a publisher says of the table that all validators will judge by."""
    for option in reversed(_TABLE_OPTIONS):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grail-trainer")
@verbose_option
def cli() -> None:
    """Learn from the verified rollouts of a GRAIL network and publish its checkpoints.

    Everything is set by environment variables, a .env file or a TOML file (see `grail-trainer run --show-settings`). The
    least a trainer needs: the hotkey that the network names as its trainer, a bucket, a model folder and an environment.
    """


@cli.command(cls=SectionedCommand)
@click.option("--model", type=_FOLDER, help="Model folder that a network begins with; one that has a checkpoint needs none.")
@click.option(
    "--env",
    "env_id",
    help=f"Environment (see `grail-envs list`), ID or ID?NAME=VALUE&…; without: the network's own, first {DEFAULT_ENV_ID}.",
)
@click.option("--windows", type=click.IntRange(min=1), help="Stop once so many windows were learned from (default: never).")
@click.option("--dry-run", is_flag=True, help="Print what would run and how much memory it takes; start and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: one JSON object on standard output.")
@click.option("--without-state", is_flag=True, help="The training state is lost or too old: go on from the last checkpoint.")
@click.option("--acknowledge", type=click.IntRange(min=0), help="Window of an alarm that ended the trainer: go on after it.")
@click.option(
    "--tensor-parallel",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Ranks that share each matrix product, where torchrun started several; a divisor of their number.",
)
@table_options
@section_options(HyperParameters, "hyper_parameters")
@section_options(BesideSettings, "beside")
@common_options
@beacon_option
def run(
    settings: Settings,
    model: Path | None,
    env_id: str | None,
    windows: int | None,
    dry_run: bool,
    as_json: bool,
    without_state: bool,
    acknowledge: int | None,
    tensor_parallel: int,
    calibration: Path | None,
    uncovered: bool,
    hyper_parameters: HyperParameters,
    beside: BesideSettings,
) -> None:
    """Learn from window after window until stopped, publishing a checkpoint after each.

    Each window: wait for the verdicts, take the files that a majority of the stake accepted, verify every rollout again,
    update, publish. Ctrl-C finishes cleanly; a restart continues where it was, learns from nothing twice and loses nothing.
    Where the network's newest checkpoint asks for gradient work, each round instead: read what was revealed, merge what passes,
    publish (docs/gradient.md); options of learning are not used then.
    Started by `torchrun --nproc-per-node N -m grail_trainer.cli run …`, N processes share the weights; see docs/trainer.md.
    """
    if as_json and not dry_run:
        raise ConfigurationError(
            "--json is how a plan is printed, and none is asked for",
            where="--json",
            hint="add --dry-run; what a run does is logged",
        )
    from grail_trainer.publishing.publication import TableChoice

    choice = TableChoice.of(calibration, uncovered=uncovered)
    if dry_run:
        from grail_trainer.commands import plan_command

        if model is None:
            raise click.UsageError("--dry-run plans the learning of a model: give --model")

        plan_command(
            settings,
            model=model,
            env_id=env_id or DEFAULT_ENV_ID,
            windows=windows,
            chosen=hyper_parameters,
            beside=beside,
            choice=choice,
            as_json=as_json,
        )
        return
    from grail_core.protocol.types import Window
    from grail_trainer.start import run_trainer
    from grail_trainer.state import LostStateError

    start = partial(
        run_trainer,
        settings,
        stop_on_signals,
        model=model,
        env_id=env_id,
        windows=windows,
        hyper_parameters=hyper_parameters,
        acknowledged=None if acknowledge is None else Window(acknowledge),
        tensor_parallel=tensor_parallel,
        beside=beside,
        choice=choice,
    )
    try:
        start(without_state=without_state)
    except LostStateError as lost:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        click.echo(f"{lost.what}\n  where: {lost.where}", err=True)
        if not click.confirm("go on from the last checkpoint without it?", default=False, err=True):
            raise
        start(without_state=True)


@cli.command()
@click.option("--offline", is_flag=True, help="Ask nothing outside this machine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch one a line for each change.")
@watch_options
@examined_options
def doctor(
    found: Resolution, faults: tuple[ConfigurationError, ...], offline: bool, as_json: bool, watch: bool, every: int
) -> None:
    """Name everything that would keep a trainer from its work, all at once: from settings to data sets.

    Settings with their origin and what is odd about them, network, wallet (is it the network's trainer), bucket, chain, beacon,
    what its bucket has of checkpoints, devices, sandbox, disk, data sets. Nothing is started, and nothing but some small
    objects in the own bucket is written, which go again. How much memory learning takes says `run --dry-run`.
    Ends with the exit code of the first thing that is broken, or 0.

    With --watch it goes on: what needs others (chain, beacon, bucket, checkpoints, disk) is asked every --every seconds, and
    what begins or ends to be wrong is said with what to do. It ends with 0.
    """
    if watch:
        from grail_core.commands.doctor_watch import watch_command
        from grail_core.examination.known import TRAINER as ROLE

        watch_command(found, faults, ROLE, every=every, offline=offline, as_json=as_json)
        return
    from grail_core.examination import report
    from grail_core.examination.known import TRAINER, Known
    from grail_envs.examination import examine_role

    findings = list(examine_role(found, faults, TRAINER, Known(), offline=offline))
    click.echo(report.as_json(findings) if as_json else report.as_text(findings))
    report.end(findings, "trainer")


@cli.command(cls=SectionedCommand)
@click.option("--from", "source", type=_FOLDER, required=True, help="Folder that `grail rollouts export` wrote.")
@click.option("--model", type=_FOLDER, required=True, help="Model folder to begin with: `grail checkpoint export` writes one.")
@click.option("--out", type=_FOLDER, required=True, help="Folder of the run; the same one goes on where it was.")
@click.option("--windows", type=click.IntRange(min=1), help="Stop once so many windows were learned from (default: all).")
@click.option(
    "--behaviour",
    type=click.Choice(["recorded", "model"]),
    default="recorded",
    show_default=True,
    help="Log-probabilities of the policy that drew: as recorded (temperature 1 alone), or measured with --model.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output: each window, then the result.")
@section_options(HyperParameters, "hyper_parameters")
@common_options
def train(
    settings: Settings,
    source: Path,
    model: Path,
    out: Path,
    windows: int | None,
    behaviour: str,
    as_json: bool,
    hyper_parameters: HyperParameters,
) -> None:
    """Learn offline from exported rollouts: no network, wallet or bucket, the same update as `run` makes.

    Windows are learned from in order; OUT/checkpoint-N holds the weights after window N as a Transformers folder. Ctrl-C
    finishes the window, and the same command goes on. Device: GRAIL_DEVICE. docs/rollouts.md says what is trusted.
    """
    from grail_trainer.offline.train_command import train_command

    train_command(
        settings,
        source=source,
        model=model,
        out=out,
        windows=windows,
        behaviour=behaviour,
        as_json=as_json,
        hyper_parameters=hyper_parameters,
    )


@cli.command()
@click.option("--env", "env_id", default=DEFAULT_ENV_ID, show_default=True, help="Environment to make the model for.")
@click.option("--out", type=_FOLDER, required=True, help="Folder to make; must be empty or absent.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--quick", is_flag=True, help="Half the warm start.")
@click.option("--shape", help="Layers and hidden size, as in 12x512; 2x64 without.")
@click.option("--most-steps", type=click.IntRange(min=1), help="Of each stage of the warm start; a larger model takes longer.")
@click.option("--no-cache", is_flag=True, help="Make it again even if it was made before.")
@click.option("--from", "source", type=_FOLDER, help="Import this Transformers folder instead: checked, weights cast to bf16.")
@click.option(
    "--work",
    type=click.Choice(["rollouts", "gradient"]),
    default="rollouts",
    show_default=True,
    help="gradient: a float32 model, published as the first checkpoint of a network of pseudo-gradients.",
)
@click.option("--preset", "preset_name", help="With --work gradient: the network's numbers (tiny).")
@json_option
@table_options
@common_options
def init(
    settings: Settings,
    env_id: str,
    out: Path,
    seed: int,
    quick: bool,
    shape: str | None,
    most_steps: int | None,
    no_cache: bool,
    source: Path | None,
    work: str,
    preset_name: str | None,
    calibration: Path | None,
    uncovered: bool,
    as_json: bool,
) -> None:
    """Make a tiny model from nothing: tokenizer for the environment, small Qwen2, a short warm start (about a minute).

    It teaches the form of an answer and a hint of the task, and takes one thread. The same arguments give the same model.
    With --from, any local Transformers model becomes one that can be published: safetensors only, no code from the folder,
    with a fast tokenizer and a chat template. The other options are of making a model, and refused beside it.
    With --work gradient a tiny float32 model over bytes is made (or the one that is in the folder is taken) and published whole
    as the network's first checkpoint, with the numbers of a preset: this needs the trainer's wallet and bucket.
    """
    from grail_trainer.commands import import_command, init_command

    if work == "gradient":
        _refuse_given(("env_id", "quick", "shape", "most_steps", "no_cache", "source"), "with --work gradient")
        from grail_trainer.gradient_start import begin_gradient_command

        begin_gradient_command(
            settings,
            out=out,
            seed=seed,
            preset_name=preset_name,
            calibration=calibration,
            uncovered=uncovered,
            as_json=as_json,
        )
        return
    _refuse_given(("preset_name", "calibration", "uncovered"), "without --work gradient")
    if source is not None:
        _refuse_beside_from("env_id", "seed", "quick", "shape", "most_steps", "no_cache")
        import_command(source, out, as_json=as_json)
        return
    init_command(
        settings,
        env_id=env_id,
        out=out,
        seed=seed,
        quick=quick,
        cached=not no_cache,
        shape=shape,
        most_steps=most_steps,
        as_json=as_json,
    )


def _refuse_given(names: tuple[str, ...], when: str) -> None:
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") not in (None, ParameterSource.DEFAULT)
        if option.name in names and given:
            raise ConfigurationError(f"{option.opts[0]} is not used {when}", where=option.opts[0], hint="leave it out")


def _refuse_beside_from(*names: str) -> None:
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") not in (None, ParameterSource.DEFAULT)
        if option.name in names and given:
            raise ConfigurationError(
                f"{option.opts[0]} is not used with --from: a model that is imported is taken as it is",
                where=option.opts[0],
                hint="leave it out; `grail-trainer publish --env` and `grail-trainer evaluate --env` name the environment",
            )


@cli.command()
@click.option("--model", type=_FOLDER, help="Model folder, sampled by its own defaults unless it is a checkpoint's.")
@click.option("--checkpoint", help="Of the network instead: `head`, or the window it is valid from (see inspect).")
@click.option(
    "--env",
    "env_ids",
    multiple=True,
    help=f"Environment, with what it holds back; one or several. Without: the checkpoint's own, or {DEFAULT_ENV_ID}.",
)
@click.option("--problems", type=click.IntRange(min=1), default=2048, show_default=True)
@click.option("--samples", type=click.IntRange(1, 64), default=1, show_default=True, help="Of each problem, for pass@k.")
@click.option(
    "--backend", default="hf", show_default=True, help="What draws: hf in this process, sglang, vllm, or an installed engine."
)
@click.option("--url", help="Of a server of that engine that runs already; else one is started.")
@click.option("--keep", type=_FOLDER, help="Folder for every graded sample; an evaluation that was interrupted goes on there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output, for each environment.")
@common_options
def evaluate(
    settings: Settings,
    model: Path | None,
    checkpoint: str | None,
    env_ids: tuple[str, ...],
    problems: int,
    samples: int,
    backend: str,
    url: str | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Success on held-out problems: fixed problems and seeds, sampled as the network samples, with standard errors.

    A checkpoint is fetched and verified, and drawn from by the policy of its signed manifest.
    """
    from grail_trainer.evaluate_command import EvaluationRequest, evaluate_command

    request = EvaluationRequest(model, checkpoint, env_ids, DEFAULT_ENV_ID, problems, samples, backend, url, keep, as_json)
    evaluate_command(settings, request)


@cli.command()
@click.option("--model", type=_FOLDER, required=True, help="Transformers folder: weights, configuration, tokenizer.")
@click.option("--env", "env_id", help=f"Environment; without: the network's own, of its first checkpoint {DEFAULT_ENV_ID}.")
@click.option("--turn", is_flag=True, help="Turn the network to this environment, which is not the one it has.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be published, and write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before weights go to a network that has a checkpoint.")
@json_option
@table_options
@common_options
def publish(
    settings: Settings,
    model: Path,
    env_id: str | None,
    turn: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    calibration: Path | None,
    uncovered: bool,
) -> None:
    """Publish a model folder as the network's first checkpoint, or as its next one.

    Tokenizer, chat template and architecture of a network never change. A trainer started afterwards goes on from the
    published weights. With --turn the work of the network changes, from rounds of gradient work or from rollouts of another
    environment: for everybody, from the window that is said; pay follows over twelve windows. Where the network has a
    checkpoint, it is asked first, and without a terminal refused unless --yes is said.
    """
    from grail_trainer.publishing.by_hand import publish_command
    from grail_trainer.publishing.publication import TableChoice

    publish_command(
        settings,
        model=model,
        env_id=env_id,
        choice=TableChoice.of(calibration, uncovered=uncovered),
        turn=turn,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
    )


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--objects", is_flag=True, help="Also ask the store for every object's size.")
@common_options
def inspect(settings: Settings, as_json: bool, objects: bool) -> None:
    """Verify and show the network's sequence of checkpoints: sizes, ratios, roots (also: `grail checkpoint show`)."""
    from grail_trainer.commands import inspect_command

    inspect_command(settings, as_json=as_json, objects=objects)


@cli.command()
@click.argument("windows", nargs=-1, metavar="WINDOW...")
@click.option("--all", "every", is_flag=True, help="Every window whose files are still kept (48 windows).")
@click.option("--json", "as_json", is_flag=True, help="Outcomes as JSON.")
@common_options
def audit(settings: Settings, windows: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Repeat what the network's trainer published, and say whether its checkpoints follow from the rollouts they name.

    Anybody can: it needs the network's parameters, its chain, a beacon relay and the environment, and no wallet and no bucket.
    WINDOW is a window or a range of them (4242000-4242300); windows between the last published state and the first one that
    is asked for are repeated too, and told. On a machine like the trainer's (same versions, processor and threads) every bit is
    compared; on another the distance is, against a stated bound. Exit code 11 where a window differs, 5 where one could not be
    audited, else 0.

    \b
      grail-trainer audit 4242000
      grail-trainer audit --all --json
    """
    from grail_trainer.auditing.audit_command import AuditRequest, audit_command

    if bool(windows) == every:
        raise click.UsageError("give either WINDOW... or --all")
    audit_command(settings, AuditRequest(windows, every), as_json=as_json)


@cli.command()
@click.argument("round_", metavar="T", type=click.IntRange(min=0))
@click.option("--out", type=_FOLDER, help="Folder for the recomputed checkpoint; must be empty or absent.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@common_options
def merge(settings: Settings, round_: int, out: Path | None, as_json: bool) -> None:
    """Merge the updates of round T (its first block) again, and compare the checkpoint with the published one.

    Anybody can, on any machine, to the bit: it needs the network's parameters and its chain, and no wallet, bucket or model
    software. Files that are not in the trainer's bucket are read from the miners'. Exit code 11 where the checkpoint does not
    follow from the files that its manifest names.
    """
    from grail_core.protocol.types import Window
    from grail_trainer.merging.merge_command import merge_command

    merge_command(settings, Window(round_), out=out, as_json=as_json)


cli.add_command(upgrade)


def main() -> None:
    run_cli(cli)


if __name__ == "__main__":
    main()
