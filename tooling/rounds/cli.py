"""The command line of rounds."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from grail_core.errors import GrailError
from tooling.adversaries import GRADIENT_STRATEGIES
from tooling.rounds.plan import Plan

BROKEN = 13
FROM_ROUND_2 = ("stale", "copy")
"""Lies that need a round before them: their miners stay away from the first."""

EPILOG = """\b
Exit codes: 0 everything that was promised holds · 2 wrong usage · 13 something does not: it is said which, with its figures

\b
Examples:
  hatch run rounds                                  thirty rounds, four honest miners and eight that lie; a minute and a half
  hatch run rounds --rounds 3 --no-cheats           a look at it in seconds
  hatch run rounds --cheats copy --cheats lazy      two liars
  hatch run rounds --validators 2 --kill            a validator and the trainer die in every third round
  hatch run rounds --seeds 3 --json --out rounds-out > rounds.json     three runs, their curves in rounds-out
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}, epilog=EPILOG)
@click.option("--rounds", type=click.IntRange(1, 1000), default=30, show_default=True, help="Rounds of the preset `tiny`.")
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Runs, one a seed.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True, help="Of chain and weights.")
@click.option("--miners", type=click.IntRange(1, 16), default=3, show_default=True, help="Honest ones of batch 4, beside H2.")
@click.option(
    "--cheats",
    multiple=True,
    type=click.Choice(GRADIENT_STRATEGIES),
    default=GRADIENT_STRATEGIES,
    show_default="all eight",
    help="A miner that lies so; may be given several times.",
)
@click.option("--no-cheats", is_flag=True, help="Honest miners alone.")
@click.option("--validators", type=click.IntRange(1, 4), default=1, show_default=True, help="Each judges every round.")
@click.option("--kill", is_flag=True, help="Kill a validator and the trainer in every third round; two validators at least.")
@click.option(
    "--compare/--no-compare", default=True, show_default=True, help="Run once more with the liars silent (half as long again)."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for rounds-SEED.json and .svg.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything as JSON on standard output, the rest on standard error."
)
def cli(
    rounds: int,
    seeds: int,
    first_seed: int,
    miners: int,
    cheats: tuple[str, ...],
    no_cheats: bool,
    validators: int,
    kill: bool,
    compare: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Rounds of gradient work on this machine, in one process, as fast as it computes.

    Miners train a tiny model on their slices of a corpus and upload pseudo-gradients, validators check and rate them, the
    trainer merges them: the shipped services over a development chain whose clock goes on when everybody has done its part.
    Some miners lie, each in one way. At the end stand a table, the held-out loss beside one process with AdamW on the same
    sequences, and what the run has to show, sentence by sentence.

    Signatures are randomised, and so is what they decide: which step of a file is replayed. Two runs of a seed have the same
    data and the same first weights, and may differ in the round in which somebody is caught.
    """
    if no_cheats and click.get_current_context().get_parameter_source("cheats") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--no-cheats and --cheats contradict each other")
    if kill and rounds < 3:
        raise click.UsageError("--kill needs three rounds at least: every third one has deaths")
    lying = () if no_cheats else tuple(dict.fromkeys(cheats))
    late = [name for name in lying if name in FROM_ROUND_2]
    if rounds < 2 and late:
        raise click.UsageError(f"{', '.join(late)} lie from the second round on: give --rounds 2 or more, or other --cheats")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.BadParameter(f"the folder cannot be made: {error.strerror}: {out}", param_hint="--out") from error
    plan = Plan(
        rounds=rounds,
        honest=miners,
        cheats=lying,
        validators=max(validators, 2) if kill else validators,
        kill=kill,
    )
    try:
        sys.exit(_run_all([replace(plan, seed=first_seed + i) for i in range(seeds)], compare, out, as_json))
    except GrailError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def _run_all(plans: list[Plan], compare: bool, out: Path | None, as_json: bool) -> int:
    import torch

    from grail_core.telemetry.console import PlainConsole
    from tooling.rounds import report
    from tooling.rounds.promises import LOSS, loss_of_all, loss_ratio, promises
    from tooling.rounds.run import run

    torch.set_num_threads(1)
    console = PlainConsole(stderr=as_json)
    found, broken, ratios = [], 0, []
    for plan in plans:
        with tempfile.TemporaryDirectory(prefix="rounds-") as folder:
            done, silent = (
                run(one, Path(folder) / name, lambda plan, line: click.echo(report.said_of_round(plan, line), err=True))
                if one is not None
                else None
                for name, one in (
                    ("run", plan),
                    (
                        "silent",
                        replace(plan, silent=True, kill=False, joiners=False, reference=False)
                        if compare and plan.cheats
                        else None,
                    ),
                )
            )
        assert done is not None
        held = [one for one in promises(done, silent) if one.name != LOSS]  # that is asked of all seeds together
        report.print_run(console, done, silent, held)
        found.append(report.as_json(done, silent, held))
        ratios += [loss_ratio(done, silent)] if silent is not None else []
        broken += sum(not one.holds for one in held)
        if out is not None:
            (out / f"rounds-{plan.seed}.json").write_text(json.dumps(found[-1], indent=1), encoding="utf-8")
            (out / f"rounds-{plan.seed}.svg").write_text(report.drawing(done, silent), encoding="utf-8")
    if ratios:
        together = loss_of_all(ratios)
        report.print_promise(console, together)
        broken += not together.holds
    if as_json:
        click.echo(json.dumps(found))
    return BROKEN if broken else 0


def main() -> None:
    cli.main()
