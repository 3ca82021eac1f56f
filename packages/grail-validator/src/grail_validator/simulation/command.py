"""`grail-validator simulate`: the table again, from the code that validators run. Heavy imports wait until it runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

PROBABILITIES = ("0.10", "0.14", "0.29", "1.0")


@click.command()
@click.option("--windows", default=320, show_default=True, type=click.IntRange(min=20), help="Windows of a replica that count.")
@click.option("--replicas", default=64, show_default=True, type=click.IntRange(min=8), help="Replicas of every cell.")
@click.option("--seed", default=1, show_default=True, help="Of coins, samples and strategies.")
@click.option(
    "--p",
    "chosen",
    type=click.Choice(PROBABILITIES),
    multiple=True,
    default=PROBABILITIES,
    show_default=True,
    help="Check chance of a full miner: how many honest ones there are beside the strategy.",
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes.")
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables between this page's marks.")
@click.option(
    "--faults",
    help="Live a whole subnet instead, of honest and other miners and several validators, and print what happens: "
    "rpc, lag, skew, restart, partition, reorg, stall, machine, recycle, separated by commas; all; none. "
    "Faults end after two thirds of the windows; two windows without work follow the last.",
)
@click.option("--miners", default=64, show_default=True, type=click.IntRange(min=8, max=255), help="Of that subnet.")
@click.option("--validators", default=2, show_default=True, type=click.IntRange(min=1, max=16), help="Of that subnet.")
@click.option("--json", "as_json", is_flag=True, help="Every figure as JSON on standard output.")
def simulate(
    windows: int,
    replicas: int,
    seed: int,
    chosen: tuple[str, ...],
    workers: int,
    page: Path | None,
    faults: str | None,
    miners: int,
    validators: int,
    as_json: bool,
) -> None:
    """Show what dishonest strategies are paid, by the draw and the scores that this program runs.

    Windows of one network are lived by a strategy beside honest full-time miners: who is checked comes from the protocol's
    draw, what is paid from its scores. Nothing else is needed: no chain, no wallet, no network, no model.

    \b
    A figure is pay per cost or per slot, honest full-time work in the same network being 1:
      pay    the hotkey's power relative to an honest full-time miner's
      cost   work really done; junk, idling and new hotkeys cost nothing
      slot   one registered hotkey in one window

    The exit code is 1 if an interval lies above what a row may be paid, at a chance that can occur (0.14 and more).

    \b
      grail-validator simulate --windows 40 --replicas 16 --p 0.14     a first look, in seconds
      grail-validator simulate --workers 2 --page docs/pay.md          the published page, in minutes
      grail-validator simulate --faults all --seed 7 --windows 90      a subnet in which everything goes wrong
    """
    if faults is not None:
        _live_a_subnet(faults, seed, windows, miners, validators, as_json)
        return
    from grail_validator.simulation.measure import Size
    from grail_validator.simulation.page import markdown, page_parts, write_page
    from grail_validator.simulation.results import measure_all

    if page is not None:
        page_parts(page)  # what is wrong with it is said before minutes of work
    size = Size(replicas, windows, seed)
    results = measure_all(size, tuple(map(float, chosen)), workers, lambda line: click.echo(line, err=True))
    if page is not None:
        write_page(page, results)
    if as_json:
        click.echo(json.dumps(results.to_json()))
    elif page is None:
        click.echo(markdown(results))
    for line in results.paid_too_much:
        click.echo(f"pays more than it may: {line}", err=True)
    if results.paid_too_much:
        raise click.exceptions.Exit(1)


def _live_a_subnet(faults: str, seed: int, windows: int, miners: int, validators: int, as_json: bool) -> None:
    """Print the log of one seed; faults end after two thirds of the windows. The exit code is 1 if a promise is broken."""
    import dataclasses

    from grail_validator.simulation.subnet.faults import Fault
    from grail_validator.simulation.subnet.run import Plan, live

    known = [fault.value for fault in Fault]
    named = [name.strip() for name in faults.split(",")]
    kinds = known if "all" in named else [name for name in named if name not in ("", "none")]
    if unknown := sorted(set(kinds) - set(known)):
        raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(known)}, all, none", param_hint="--faults")
    plan = Plan(seed, windows, miners, validators, tuple(kinds), faulty=2 * windows // 3)
    outcome = live(plan, (lambda _: None) if as_json else click.echo)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(outcome)))
    else:
        click.echo(", ".join(f"{count} {what}" for what, count in outcome.counts.items()))
        click.echo(f"seed {seed}, log {outcome.digest}, {len(outcome.broken)} promises broken")
    if outcome.broken:
        raise click.exceptions.Exit(1)
