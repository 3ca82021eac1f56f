"""A run for a person (a table, the promises), for a program (JSON) and as a drawing of its curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from grail_core import svg
from grail_core.protocol.gradient.rating import NANO
from grail_core.telemetry.console import PlainConsole
from tooling.rounds.plan import Plan
from tooling.rounds.promises import Promise
from tooling.rounds.run import Finished, Line

_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 300, 52, 40
_COLOURS = {"rounds": "#2563eb", "liars silent": "#059669", "one process, AdamW": "#d97706"}


def said_of_round(plan: Plan, line: Line) -> str:
    """One line for a terminal while it runs."""
    caught = ", ".join(f"{name} {row.caught_by}" for name, row in line.rows.items() if row.caught_by)
    silent = " silent" if plan.silent else ""
    merged = " ".join(line.merged)
    return f"seed {plan.seed}{silent} round {line.number:2}  loss {line.loss:.4f}  merged {merged}  caught: {caught or '–'}"


def print_run(console: PlainConsole, run: Finished, silent: Finished | None, found: Sequence[Promise]) -> None:
    """The miners, the figures, and what holds."""
    table = Table(title=f"{run.plan.rounds} rounds, seed {run.plan.seed}", title_justify="left", header_style="dim")
    columns = (("miner", "left"), ("strategy", "left"), ("caught by", "left"), ("rating", "right"), ("F", "right"))
    for name, justify in (*columns, ("weight", "right"), ("volume", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for part in run.plan.parts:
        check, number = run.caught(part)
        standing = run.standing(part.name)
        table.add_row(
            part.name,
            Text(part.strategy, style="" if part.honest else "red"),
            f"{check} in round {number}" if check else "",
            f"{standing.rating.ordinal / NANO:.2f}",
            f"{run.power(part.name) / NANO:,.0f}",
            f"{run.weight(part.name)}",
            f"{standing.work}",
        )
    console.print(table)
    for sentence in figures(run, silent):
        console.say(sentence)
    for one in found:
        print_promise(console, one)


def print_promise(console: PlainConsole, one: Promise) -> None:
    line = Text(f"{'holds ' if one.holds else 'BROKEN'}  {one.name}: {one.said}", style="" if one.holds else "red")
    console.print(line, soft_wrap=not console.is_terminal)


def figures(run: Finished, silent: Finished | None) -> list[str]:
    """Losses and seconds, in words."""
    found = [f"held-out loss {run.first_loss:.4f} → {run.losses[-1]:.4f}"]
    if silent is not None:
        found.append(f"with the liars silent {silent.losses[-1]:.4f}")
    if run.reference is not None:
        best = run.reference
        ratio = run.losses[-1] / best.losses[-1]
        found.append(f"one process with AdamW at {best.rate:g} on the same sequences {best.losses[-1]:.4f}: ratio {ratio:.4f}")
    parts = ", ".join(f"{phase} {spent:.1f}" for phase, spent in sorted(run.cpu.items(), key=lambda item: -item[1]))
    found.append(f"CPU of the rounds {run.seconds:.1f} s ({parts})")
    return found


def as_json(run: Finished, silent: Finished | None, found: Sequence[Promise]) -> dict[str, Any]:
    """Everything, with hexadecimal digests."""
    plan = run.plan
    return {
        "rounds": plan.rounds,
        "seed": plan.seed,
        "validators": plan.validators,
        "losses": run.losses,
        "losses_silent": None if silent is None else silent.losses,
        "reference": None if run.reference is None else {"rate": run.reference.rate, "losses": list(run.reference.losses)},
        "cpu_s": {"rounds": run.seconds, **run.cpu},
        "deaths": run.deaths,
        "miners": [
            {
                "name": part.name,
                "strategy": part.strategy,
                "batch": part.batch,
                "caught_by": run.caught(part)[0],
                "caught_in_round": run.caught(part)[1],
                "mu": run.standing(part.name).rating.mu,
                "sigma": run.standing(part.name).rating.sigma,
                "power": run.power(part.name),
                "weight": run.weight(part.name),
                "work": run.standing(part.name).work,
            }
            for part in plan.parts
        ],
        "by_round": [
            {
                "round": line.number,
                "loss": line.loss,
                "status": line.status.value,
                "merged": list(line.merged),
                "alike": line.alike,
                "weights_root": None if line.weights_root is None else line.weights_root.hex(),
                "miners": {name: asdict(row) for name, row in line.rows.items()},
            }
            for line in run.lines
        ],
        "promises": [{"name": one.name, "holds": one.holds, "said": one.said} for one in found],
    }


def drawing(run: Finished, silent: Finished | None) -> str:
    """The held-out loss after each round, beside what it is compared with."""
    curves: dict[str, Sequence[float]] = {"rounds": run.losses}
    if silent is not None:
        curves["liars silent"] = silent.losses
    if run.reference is not None:
        curves["one process, AdamW"] = run.reference.losses
    high, rounds = max(max(one) for one in curves.values()), run.plan.rounds

    def x(number: float) -> float:
        return _LEFT + _WIDTH * number / rounds

    def y(loss: float) -> float:
        return _TOP + _HEIGHT * (1 - loss / high)

    parts = [svg.label(_LEFT, _TOP - 16, "held-out loss, nats a token, after each round", bold=True)]
    for tick in range(int(high) + 1):
        parts += [
            svg.grid_line(_LEFT, y(tick), _LEFT + _WIDTH, y(tick)),
            svg.label(_LEFT - 8, y(tick) + 4, f"{tick}", anchor="end"),
        ]
    for tick in range(0, rounds + 1, max(1, rounds // 6)):
        parts.append(svg.label(x(tick), _TOP + _HEIGHT + 18, f"{tick}", anchor="middle"))
    for place, (name, losses) in enumerate(curves.items()):
        points = [(x(number), y(loss)) for number, loss in enumerate(losses)]
        parts.append(svg.polyline(points, fill="none", stroke=_COLOURS[name], stroke_width=2))
        at = _LEFT + 190 * place
        parts.append(svg.line(at, _TOP + _HEIGHT + 40, at + 22, _TOP + _HEIGHT + 40, stroke=_COLOURS[name], stroke_width=3))
        parts.append(svg.label(at + 28, _TOP + _HEIGHT + 44, name))
    return svg.document(_LEFT + _WIDTH + 20, _TOP + _HEIGHT + 60, parts)
