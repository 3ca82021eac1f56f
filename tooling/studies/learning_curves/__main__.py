"""`hatch run learn`: held-out success over windows learned from, on tasks a tiny model can learn, for several losses.

    hatch run learn                              # two tasks, three losses, three seeds each, and a control run for each task
    hatch run learn --task sat --loss dapo --windows 6
    hatch run learn --task sat --learning-rate 0     # the control alone
    hatch run learn --out learn-out --page docs      # also docs/learning-*.svg and the table of docs/learning.md

The runs are kept in --out, and one that is there is not run again. The same settings give the same points to the bit on the
same kind of processor.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import click
from click.core import ParameterSource

from grail_core.commands.knob_options import knob_options
from grail_core.commands.options import run_cli
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, LossKind, OptimiserSettings
from tooling.studies.learning_curves.curve import Run
from tooling.studies.learning_curves.page import line, table, write_page
from tooling.studies.learning_curves.runs import run_all
from tooling.studies.learning_curves.task import (
    ADVANTAGES_OF,
    DEFAULT_TASKS,
    GROUPS,
    GROUPS_OF,
    LEARNING_RATE_OF,
    environments_of,
)

DEFAULT_LOSSES: tuple[LossKind, ...] = ("dapo", "grpo", "cispo")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--task",
    "tasks",
    multiple=True,
    default=DEFAULT_TASKS,
    show_default=True,
    help="An environment, or a family of affine_logic.",
)
@click.option(
    "--loss", "losses", multiple=True, type=click.Choice(get_args(LossKind)), default=DEFAULT_LOSSES, show_default=True
)
@click.option("--model", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Default: made for each seed.")
@click.option("--windows", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--groups", show_default="48; game_of_n 256", type=click.IntRange(min=1), help="Groups of 16 a window.")
@click.option("--stale", default=2, show_default=True, type=click.IntRange(min=1), help="Windows from rollout to checkpoint.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--first-seed", default=0, show_default=True)
@click.option("--problems", default=1024, show_default=True, type=click.IntRange(min=1), help="Held-out problems.")
@click.option("--every", default=2, show_default=True, type=click.IntRange(min=1), help="Evaluate every so many windows.")
@knob_options(OptimiserSettings, "optimiser")
@knob_options(GrpoSettings, "chosen", "epochs", "minibatches", "advantages", "kl_coefficient")
@click.option("--control/--no-control", default=True, show_default=True, help="Also run each task with learning rate 0.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Processes at one time.")
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("learn-out"),
    show_default=True,
    help="Runs are kept there.",
)
@click.option("--page", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Write drawings and table there.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print every point as JSON on standard output, the rest on standard error."
)
def main(
    tasks: tuple[str, ...],
    losses: tuple[LossKind, ...],
    model: Path | None,
    windows: int,
    groups: int | None,
    stale: int,
    seeds: int,
    first_seed: int,
    problems: int,
    every: int,
    optimiser: OptimiserSettings,
    chosen: GrpoSettings,
    control: bool,
    jobs: int,
    cache_dir: Path | None,
    out: Path,
    page: Path | None,
    as_json: bool,
) -> None:
    """Learn some tasks with some losses and print what became of held-out success and of the answers' form."""
    for task in tasks:
        environments_of(task)  # an unknown one ends here, before the first run
    wanted: list[tuple[str, int, HyperParameters]] = []
    for task in tasks:
        own_optimiser, own = settings_for(task, optimiser, chosen)
        updates = [dataclasses.replace(own, loss=loss) for loss in losses]
        for seed in range(first_seed, first_seed + seeds):  # outermost: a study that is stopped has every loss of some seeds
            wanted += [(task, seed, HyperParameters(update=update, optimiser=own_optimiser)) for update in updates]
        if control and own_optimiser.learning_rate:
            still = dataclasses.replace(own_optimiser, learning_rate=0.0)
            wanted.append((task, first_seed, HyperParameters(update=updates[0], optimiser=still)))
    folder = None if model is None else str(model.absolute())
    runs = [
        Run(task, seed, settings, windows, groups or GROUPS_OF.get(task, GROUPS), stale, problems, every, folder)
        for task, seed, settings in wanted
    ]
    found = run_all(runs, out, jobs=jobs, cache_dir=cache_dir, told=lambda one: click.echo(line(one), err=as_json))
    click.echo("\n" + table(found), err=as_json)
    if page is not None:
        write_page(found, page)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found]))


def settings_for(task: str, optimiser: OptimiserSettings, chosen: GrpoSettings) -> tuple[OptimiserSettings, GrpoSettings]:
    """The settings of the command line, but the task's own learning rate and advantages where the command line has none."""
    source = click.get_current_context().get_parameter_source
    if task in LEARNING_RATE_OF and source("learning_rate") is ParameterSource.DEFAULT:
        optimiser = dataclasses.replace(optimiser, learning_rate=LEARNING_RATE_OF[task])
    if task in ADVANTAGES_OF and source("advantages") is ParameterSource.DEFAULT:
        chosen = dataclasses.replace(chosen, advantages=ADVANTAGES_OF[task])
    return optimiser, chosen


if __name__ == "__main__":
    run_cli(main)
