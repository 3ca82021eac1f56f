"""The table at the end of a run, on the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from grail_core.telemetry.console import PlainConsole
from tooling.localnet.plan import HONEST, Layout
from tooling.localnet.report.summary import Summary, unenforced_sentence


def print_summary(console: PlainConsole, summary: Summary, layout: Layout) -> None:
    """Miners, then the numbers of the run, then where everything lies."""
    miners = Table(title=f"{summary.windows} windows of {summary.env_id}", title_justify="left", header_style="dim")
    for name, justify in (
        ("miner", "left"),
        ("strategy", "left"),
        ("weight", "right"),
        ("unique valid", "right"),
        ("failed", "right"),
    ):
        miners.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    miners.add_column("reason", overflow="fold")
    for m in summary.miners:
        style = "" if m.strategy == HONEST else "red"
        miners.add_row(
            m.name,
            Text(m.strategy, style=style),
            f"{100 * m.weight:.2f} %",
            f"{m.unique_valid:,}",
            str(m.windows_failed),
            Text(m.reason),
        )
    console.print(miners)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    for name, value in _rows(summary):
        facts.add_row(name, Text(value))
    console.print(facts)
    if summary.unenforced:
        console.print(Text(unenforced_sentence(summary.unenforced), style="bold red"))
    if not summary.finished:
        console.print(Text(f"The run is not complete: {summary.why_unfinished}", style="bold yellow"))
    console.print(Text(f"report   {layout.report}\nsummary  {layout.summary}"), soft_wrap=True)


def _rows(summary: Summary) -> list[tuple[str, str]]:
    rows = []
    if summary.eval_before is not None and summary.eval_after is not None:
        sigmas = "" if summary.eval_gain_sigmas is None else f", {summary.eval_gain_sigmas:+.1f} standard errors"
        gain = "" if summary.eval_gain is None else f" (× {summary.eval_gain:.2f}{sigmas})"
        rows.append(
            (
                "held-out success",
                f"{100 * summary.eval_before:.2f} ± {100 * (summary.eval_before_error or 0):.2f} % → "
                f"{100 * summary.eval_after:.2f} ± {100 * (summary.eval_after_error or 0):.2f} %{gain}, "
                f"{summary.eval_problems:,} problems",
            )
        )
        rows.append(
            (
                "well-formed answers",
                f"{100 * (summary.format_before or 0):.1f} → {100 * (summary.format_after or 0):.1f} %; "
                f"best constant answer solves {100 * (summary.eval_constant or 0):.2f} %",
            )
        )
        if summary.eval_after == 0:
            rows.append(("", "a model of this size solves none of these problems; the run shows the path, not learning"))
    if summary.eval_control is not None:
        rows.append(
            ("control, learning rate 0", f"{100 * summary.eval_control:.2f} ± {100 * (summary.eval_control_error or 0):.2f} %")
        )
    if summary.audit is not None:
        said = ", ".join(f"{count} {outcome}" for outcome, count in summary.audit.items())
        rows.append(
            (
                "training audited",
                f"{said} ({summary.audit_seconds:.0f} s){': ' * bool(summary.audit_difference)}{summary.audit_difference}",
            )
        )
    agree = (
        "equal verdicts"
        if summary.validators_agree
        else "verdicts differ"
        if summary.windows_judged_together
        else "nothing to compare"
    )
    apart = len(summary.windows_compared_without_scores)
    rows.append(
        (
            "validators",
            f"{agree} in {summary.windows_judged_together} windows"
            + (f", {apart} of them after a missed one, so without scores and weights" if apart else ""),
        )
    )
    for validator, windows in summary.windows_missed.items():
        for window, why in windows.items():
            rows.append(("", f"{validator} missed window {window}: {why}"))
    if summary.delta_ratio is not None:
        rows.append(("delta against full", f"{100 * summary.delta_ratio:.1f} % of the bytes"))
    if summary.generate_to_verify_ratio is not None:
        rows.append(
            (
                "generate : verify",
                f"{summary.generate_to_verify_ratio:.2f} s of generating a rollout for 1 s of verifying one",
            )
        )
    if summary.rollouts_verified_fraction is not None:
        unique = f"; of the honest ones {100 * (summary.honest_unique_fraction or 0):.1f} % counted as unique"
        rows.append(("rollouts that passed", f"{100 * summary.rollouts_verified_fraction:.1f} % of all{unique}"))
    rows.append(
        (
            "time",
            f"{summary.seconds_total:.0f} s in all, {summary.seconds_per_window or 0:.1f} s a window ({summary.clock} clock)",
        )
    )
    rows += [("" if i else "gone on without", said) for i, said in enumerate(summary.not_waited_for)]
    if summary.processes_restarted:
        rows.append(("restarted", ", ".join(f"{n} × {c}" for n, c in summary.processes_restarted.items())))
    return rows
