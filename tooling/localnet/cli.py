"""The command line of localnet."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.errors import GrailError
from tooling.adversaries import GRADIENT_STRATEGIES, STRATEGIES
from tooling.localnet.plan import (
    BITTENSOR_SIM,
    BLOCK_SECONDS,
    EVALUATION_PROBLEMS,
    FOLDERS,
    GRADIENT,
    GROUPS,
    LOCAL,
    QUICK_EVALUATION_PROBLEMS,
    QUICK_GROUPS,
    ROLLOUTS,
    S3,
    SHAPED_BLOCK_SECONDS,
    Layout,
    Plan,
)

if TYPE_CHECKING:
    from grail_core.telemetry.console import PlainConsole
    from tooling.localnet.view import View

INCOMPLETE = 12
DEFAULT_CHEATS = {ROLLOUTS: ("zero-sketch",), GRADIENT: ("copy",)}
ROLLOUT_OPTIONS = frozenset(
    {"env_id", "model", "model_shape", "groups", "control", "audit", "commit_reveal", "newcomer", "evaluation_problems"}
)
PIPE_COLUMNS = 140  # of the table where no terminal says how wide it is

EPILOG = """\b
Exit codes: 0 ran to the end · 2 wrong usage · 3 a setting, or the folder holds another run · 5 storage · 6 model unreadable
            7 no such environment or data set · 8 chain · 9 beacon · 10 disk full · 12 ended before all windows were judged
            18 a run is going on in the folder · 130 stopped by Ctrl-C (start again with the same options to resume)

\b
Examples:
  hatch run localnet                                     twelve windows of 3-SAT, one miner lies about its proofs
  hatch run localnet --cheat best-of-n --windows 8       another lie, more windows
  hatch run localnet --cheat none --control              honest miners, and the same run with learning rate 0
  hatch run localnet --env gsm8k --data-dir ../data --windows 2 --quick
  hatch run localnet --model-shape 12x512 --cheat stale --cheat eight-bit --windows 3 --groups 4     a larger model
  hatch run localnet --work gradient --windows 6         six rounds of pseudo-gradients, one miner copies another's
  hatch run localnet --work gradient --cheat lazy --cheat stale --cheat copy --windows 6
  hatch run localnet --chain bittensor-sim --windows 4 --quick     through the bittensor SDK, as on a real subnet
  hatch run localnet --store s3 --windows 4 --quick      buckets on an S3 server, as on a real network
  hatch run localnet --chaos                             every role is killed once and recovers
  hatch run localnet --cheat none --newcomer --commit-reveal     a UID changes hands before its weights, which are hidden first
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}, epilog=EPILOG)
@click.option("--windows", type=click.IntRange(1, 10_000), default=12, show_default=True, help="Windows of 30 blocks to run.")
@click.option(
    "--work",
    type=click.Choice([ROLLOUTS, GRADIENT]),
    default=ROLLOUTS,
    show_default=True,
    help="Rollouts, or pseudo-gradients of a corpus: a window is a round then (docs/gradient.md).",
)
@click.option(
    "--store",
    type=click.Choice([FOLDERS, S3]),
    default=FOLDERS,
    show_default=True,
    help="Buckets as folders, or on an S3 server that tells the chain's time and enforces keys.",
)
@click.option(
    "--store-faults",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --store s3: a JSON file of what goes wrong how often on the line to it (tooling.testing.faulty_proxy).",
)
@click.option(
    "--env",
    "env_id",
    default="sat",
    show_default=True,
    help="Environment: an id of `grail-envs list`, or ID?NAME=VALUE&…",
)
@click.option(
    "--model", type=click.Path(path_type=Path), help="Transformers folder to start from (default: a tiny one is made)."
)
@click.option("--model-shape", help="Layers and hidden size of the model that is made, as in 12x512 (default: 2x64).")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=81, show_default=True, help="Keys, chain, model: all follow from it."
)
@click.option("--quick", is_flag=True, help="Smaller everything: shorter warm start, fewer groups, 256 evaluation problems.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="GRAIL_DATA_DIR", help="Folder of data sets (gsm8k, …).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("localnet-out"),
    show_default=True,
    help="Folder of the run; a second start there resumes.",
)
@click.option("--miners", type=click.IntRange(1, 16), default=3, show_default=True, help="Honest miners.")
@click.option(
    "--cheat",
    "cheats",
    type=click.Choice([*dict.fromkeys((*STRATEGIES, *GRADIENT_STRATEGIES)), "none"]),
    multiple=True,
    show_default="zero-sketch; with --work gradient copy",
    help="Add a miner that lies so; may be given several times.",
)
@click.option("--validators", type=click.IntRange(1, 8), default=2, show_default=True, help="Validators.")
@click.option(
    "--groups",
    type=click.IntRange(1, 375),
    show_default=f"{GROUPS}, with --quick {QUICK_GROUPS}",
    help="Most groups of 16 per miner and window.",
)
@click.option(
    "--real-time", is_flag=True, help="Blocks by the wall clock; without it they go on when every role has done its part."
)
@click.option(
    "--block-time", type=click.FloatRange(0.1, 60.0), show_default=str(BLOCK_SECONDS), help="Seconds a block, with --real-time."
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1.0),
    default=300.0,
    show_default=True,
    help="Seconds that a role which is dead or hangs may hold the blocks; then the run goes on without it, and says so.",
)
@click.option("--control", is_flag=True, help="Run once more with learning rate 0 and report both (takes twice as long).")
@click.option("--audit", is_flag=True, help="Repeat the trainer's windows at the end, as a stranger (3 to 5 s a window).")
@click.option("--chaos", is_flag=True, help="SIGKILL every role once during the run.")
@click.option("--commit-reveal", is_flag=True, help="Validators commit to weights, which the chain reveals some blocks later.")
@click.option(
    "--newcomer",
    is_flag=True,
    help="Fill the subnet; the chain loses a call, and a newcomer takes a miner's UID before the next.",
)
@click.option(
    "--chain",
    type=click.Choice([LOCAL, BITTENSOR_SIM]),
    default=LOCAL,
    show_default=True,
    help="How roles reach the chain: its file, or the bittensor SDK over simulated nodes.",
)
@click.option(
    "--evaluation-problems",
    type=click.IntRange(1, 100_000),
    show_default=f"{EVALUATION_PROBLEMS}, with --quick {QUICK_EVALUATION_PROBLEMS}",
    help="Held-out problems.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print summary.json on standard output, everything else on standard error."
)
def cli(
    windows: int,
    work: str,
    store: str,
    store_faults: Path | None,
    env_id: str,
    model: Path | None,
    model_shape: str | None,
    seed: int,
    quick: bool,
    data_dir: Path | None,
    out: Path,
    miners: int,
    cheats: tuple[str, ...],
    validators: int,
    groups: int | None,
    real_time: bool,
    block_time: float | None,
    patience: float,
    control: bool,
    audit: bool,
    chaos: bool,
    commit_reveal: bool,
    newcomer: bool,
    chain: str,
    evaluation_problems: int | None,
    as_json: bool,
) -> None:
    """Run the whole subnet on this machine.

    A chain with real blocks and signatures, a beacon, object storage, a trainer that publishes checkpoints, miners that
    produce rollouts with proofs, one of which cheats, and validators that check them and set weights: each a process of its
    own, started through its public command line. At the end a table, OUT/summary.json and OUT/report.html.

    Blocks follow the work: the chain goes on when every role has done what the next blocks wait for, so a run is as quick as
    this machine and depends on nothing else. With --real-time a block comes every so many seconds, and what does not fit
    into a window is not mined.

    Ctrl-C stops everything; the same command in the same folder resumes.
    """
    if work == GRADIENT:
        _refuse_rollout_options(click.get_current_context())
    cheats = _cheats(work, cheats)
    if block_time is not None and not real_time:
        raise click.UsageError("--block-time belongs to --real-time: without it blocks follow the work, whatever their time")
    if store_faults is not None and store != S3:
        raise click.UsageError("--store-faults belongs to --store s3: folders have no line to them")
    if model is not None and model_shape is not None:
        raise click.UsageError("--model-shape is of a model that is made, and --model gives one")
    plan = Plan(
        windows=windows,
        env_id=GRADIENT if work == GRADIENT else env_id,
        seed=seed,
        quick=quick,
        miners=miners,
        cheats=cheats,
        validators=validators,
        block_time_ms=round(1000 * (block_time or (BLOCK_SECONDS if model_shape is None else SHAPED_BLOCK_SECONDS))),
        model=str(model.absolute()) if model else None,
        model_shape=model_shape,
        data_dir=str(data_dir.absolute()) if data_dir else None,
        evaluation_problems=evaluation_problems or (QUICK_EVALUATION_PROBLEMS if quick else EVALUATION_PROBLEMS),
        control=control,
        audit=audit,
        chaos=chaos,
        commit_reveal=commit_reveal,
        newcomer=newcomer,
        real_time=real_time,
        groups=groups,
        work=work,
        chain=chain,
        store=store,
        store_faults=str(store_faults.absolute()) if store_faults else None,
        patience_s=patience,
    )
    sys.exit(_run(plan, out.absolute(), as_json))


def _refuse_rollout_options(context: click.Context) -> None:
    """What a run of gradient work has no use for; data folder aside, which the environment may name."""
    given = click.core.ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        if parameter.name in ROLLOUT_OPTIONS and context.get_parameter_source(parameter.name) is given:
            raise click.UsageError(f"{parameter.opts[0]} is of rollouts, and --work gradient asks for other work")


def _cheats(work: str, chosen: tuple[str, ...]) -> tuple[str, ...]:
    known = GRADIENT_STRATEGIES if work == GRADIENT else STRATEGIES
    cheats = tuple(c for c in chosen or DEFAULT_CHEATS[work] if c != "none")
    for cheat in cheats:
        if cheat not in known:
            raise click.UsageError(f"--cheat {cheat} is no lie about {work}; one of: {', '.join(known)}")
    return cheats


def _run(plan: Plan, out: Path, as_json: bool) -> int:
    from grail_core.telemetry.console import PlainConsole
    from tooling.localnet.running import reproduce_command
    from tooling.localnet.view import open_view
    from tooling.localnet.windows import RoleFailedError

    console = PlainConsole(stderr=as_json)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = PlainConsole(stderr=as_json, width=PIPE_COLUMNS)
    layout = Layout(out)
    run = _gradient if plan.work == GRADIENT else _rollouts
    try:
        with open_view(console) as view:
            told = run(plan, layout, view, reproduce_command(sys.argv[1:]))
    except RoleFailedError as error:
        _say(error, as_json)
        return error.code
    except GrailError as error:
        _say(error, as_json)
        return error.exit_code
    told.show(console)
    if as_json:
        click.echo(json.dumps(told.summary))
    return 0 if told.finished else INCOMPLETE


@dataclass(frozen=True)
class _Told:
    """What a run says at its end."""

    summary: dict[str, object]
    finished: bool
    show: Callable[[PlainConsole], None]


def _rollouts(plan: Plan, layout: Layout, view: View, command: str) -> _Told:
    from tooling.localnet.run import Localnet
    from tooling.localnet.table import print_summary

    _check_environment(plan)
    summary = Localnet(plan, layout, view, command).run()
    return _Told(summary.to_json(), summary.finished, lambda console: print_summary(console, summary, layout))


def _gradient(plan: Plan, layout: Layout, view: View, command: str) -> _Told:
    from tooling.localnet.rounds.run import GradientLocalnet
    from tooling.localnet.rounds.table import print_summary

    summary = GradientLocalnet(plan, layout, view, command).run()
    return _Told(summary.to_json(), summary.finished, lambda console: print_summary(console, summary, layout))


def _check_environment(plan: Plan) -> None:
    """Unknown environments and missing data sets end here, before anything is started."""
    from grail_envs import load
    from grail_envs.adapters.consent import consent_to

    consent_to(plan.env_id)  # typed here: for this run's roles too (`processes.base_environment`)
    load(plan.env_id, data_dir=plan.data_dir)


def _say(error: GrailError, as_json: bool) -> None:
    if as_json:
        click.echo(
            json.dumps({"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}), err=True
        )
    else:
        click.echo(f"error: {error}", err=True)


def main() -> None:
    cli.main()
