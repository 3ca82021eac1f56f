"""The table at the end of a run of gradient work, on the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from grail_core.telemetry.console import PlainConsole
from tooling.localnet.plan import HONEST, Layout
from tooling.localnet.rounds.summary import RoundMinerSummary, RoundsSummary

HEADS = (
    ("miner", "left"),
    ("strategy", "left"),
    ("weight", "right"),
    ("rating", "right"),
    ("ranks of the last rounds", "left"),
    ("merged", "right"),
    ("failed", "right"),
)


def print_summary(console: PlainConsole, summary: RoundsSummary, layout: Layout) -> None:
    """Miners, then the numbers of the run, then where everything lies."""
    miners = Table(
        title=f"{summary.windows} rounds of gradient work, preset {summary.preset}", title_justify="left", header_style="dim"
    )
    for name, justify in HEADS:
        miners.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    miners.add_column("reason", overflow="fold")
    for miner in summary.miners:
        style = "" if miner.strategy == HONEST else "red"
        miners.add_row(
            miner.name,
            Text(miner.strategy, style=style),
            f"{100 * miner.weight:.2f} %",
            rating(miner),
            ranks(miner),
            f"{miner.rounds_merged} of {summary.rounds_merged}",
            str(miner.rounds_failed),
            Text(miner.reason),
        )
    console.print(miners)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    for name, value in _rows(summary):
        facts.add_row(name, Text(value))
    console.print(facts)
    if not summary.finished:
        console.print(Text(f"The run is not complete: {summary.why_unfinished}", style="bold yellow"))
    console.print(Text(f"report   {layout.report}\nsummary  {layout.summary}"), soft_wrap=True)


def rating(miner: RoundMinerSummary) -> str:
    return "–" if miner.rating is None or miner.rating_error is None else f"{miner.rating:.1f} ± {miner.rating_error:.1f}"


def ranks(miner: RoundMinerSummary) -> str:
    return " ".join("–" if rank is None else str(rank) for rank in miner.ranks)


def _rows(summary: RoundsSummary) -> list[tuple[str, str]]:
    rows = []
    if summary.loss_before is not None and summary.loss_after is not None:
        floor = "" if summary.loss_floor is None else f"; the corpus's entropy is {summary.loss_floor:.4f}"
        rows.append(
            (
                "held-out loss",
                f"{summary.loss_before:.4f} ± {summary.loss_before_error or 0:.4f} → {summary.loss_after:.4f} ± "
                f"{summary.loss_after_error or 0:.4f} nats a token, {summary.loss_sequences} sequences{floor}",
            )
        )
    rows.append(("merged", f"{summary.rounds_merged} of {summary.windows_asked} rounds"))
    agree = (
        "equal verdicts"
        if summary.validators_agree
        else "verdicts differ"
        if summary.windows_judged_together
        else "nothing to compare"
    )
    rows.append(("validators", f"{agree} in {summary.windows_judged_together} rounds"))
    for validator, missed in summary.windows_missed.items():
        rows += [("", f"{validator} missed round {round_}: {why}") for round_, why in missed.items()]
    if summary.update_bytes is not None and summary.update_bits_per_parameter is not None:
        opening = "" if summary.opening_bytes is None else f"; an opening {summary.opening_bytes:,.0f}"
        rows.append(
            (
                "bytes a round a miner",
                f"{summary.update_bytes:,.0f} an update with header and sketches, {summary.update_bits_per_parameter:.3f} bits "
                f"a parameter{opening}",
            )
        )
    seconds = summary.seconds_per_window or 0
    rows.append(("time", f"{summary.seconds_total:.0f} s in all, {seconds:.1f} s a round ({summary.clock} clock)"))
    rows += [("" if i else "gone on without", said) for i, said in enumerate(summary.not_waited_for)]
    if summary.processes_restarted:
        rows.append(("restarted", ", ".join(f"{n} × {c}" for n, c in summary.processes_restarted.items())))
    return rows
