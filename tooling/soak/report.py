"""What a soak found: a table for people, one object for programs, a drawing, and the problems that make it fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from grail_core import svg
from tooling.localnet.processes import STORE
from tooling.soak.accounts import Account
from tooling.soak.bodies import Bodies
from tooling.soak.holdings import Holding, Sample
from tooling.soak.leaks import DESCRIPTORS, LEAST_WINDOWS, MEMORY, STATE, THREADS, Limit, Trend, trend
from tooling.soak.schedule import Fault

FORMAT: Final = 1
LEAST_SCORED: Final = 0.6
"""Share of the windows that both validators score: a run of void windows has soaked nothing."""

HOLDS_THE_BUCKETS: Final = frozenset({STORE})
"""Its memory is what the roles keep in their buckets, which may grow: verdicts are kept for ever."""


@dataclass(frozen=True)
class Soaked:
    """All that is known of a finished run."""

    seed: int
    windows: range  # by first block
    samples: Sequence[Sample]
    latencies: Mapping[str, Mapping[int, float]]  # validator → window → seconds
    faults: Sequence[tuple[float, Fault]]
    accounts: Mapping[str, Account]
    restarts: Mapping[str, int]
    bodies: Bodies
    unfounded: Sequence[str]  # weights that do not follow from what was published
    weights_set: Mapping[str, int]  # how often the chain heard each validator's weights
    seconds: float


def series(soaked: Soaked, name: str, what: str) -> list[float]:
    """One value a window, of the newest life of a process."""
    lived = [one.holdings[name] for one in soaked.samples if name in one.holdings]
    return [float(getattr(one, what)) for one in lived if one.pid == lived[-1].pid]


def folder_series(soaked: Soaked, folder: str) -> list[float]:
    return [float(one.folders[folder]) for one in soaked.samples if folder in one.folders]


def watched(soaked: Soaked) -> dict[str, tuple[Trend | None, Limit]]:
    """Everything that must not grow without end, by what it is. No trend: it was seen for too few windows."""
    found: dict[str, tuple[Trend | None, Limit]] = {}
    names = sorted({name for one in soaked.samples for name in one.holdings})
    for name in names:
        for what, limit in (("memory", MEMORY), ("descriptors", DESCRIPTORS), ("threads", THREADS)):
            if not (what == "memory" and name in HOLDS_THE_BUCKETS):
                found[f"{what} of {name}"] = trend(series(soaked, name, what)), limit
    for folder in sorted({folder for one in soaked.samples for folder in one.folders}):
        kind = folder.partition("/")[0]
        if kind == "state":  # a cache grows up to its limit, which is far from here
            found[f"bytes in {folder}"] = trend(folder_series(soaked, folder)), STATE
    return found


def trends(soaked: Soaked) -> dict[str, tuple[Trend, Limit]]:
    """Of all that was seen for long enough."""
    return {what: (seen, limit) for what, (seen, limit) in watched(soaked).items() if seen is not None}


def without_trend(soaked: Soaked) -> list[str]:
    """What was seen for too few windows: whether it leaks is not known."""
    return [what for what, (seen, _) in watched(soaked).items() if seen is None]


def leaks_looked_at(soaked: Soaked) -> str:
    """One line for people: what the run says of leaks, and what it does not."""
    shown, missing = trends(soaked), without_trend(soaked)
    leaking = sum(seen.leaks(limit) for seen, limit in shown.values())
    if not shown:
        return f"leaks were not looked at: {len(soaked.windows)} windows are too few for trends, which take {2 * LEAST_WINDOWS}"
    told = f"leaks: {leaking} of {len(shown)} trends"
    return told + (f"; not looked at, for too few windows: {', '.join(missing)}" if missing else "")


def problems(soaked: Soaked) -> list[str]:
    """Empty where the soak is passed."""
    found = [
        f"{what} grows: {seen.slope:,.2f} a window over the last {seen.windows}, from {seen.first:,.0f} to {seen.last:,.0f}"
        for what, (seen, limit) in trends(soaked).items()
        if seen.leaks(limit)
    ]
    for role, account in soaked.accounts.items():
        found += [f"window {window}: {role} neither did it nor said why" for window in account.untold]
    found += [
        f"window {one}: validators judged it differently, and nothing had failed"
        for one, why in soaked.bodies.divided.items()
        if not why
    ]
    found += soaked.unfounded
    found += [f"{name} was restarted {count} times" for name, count in soaked.restarts.items() if count]
    scored = len(soaked.bodies.alike) + len(soaked.bodies.divided)
    if scored < LEAST_SCORED * len(soaked.windows):
        found.append(f"only {scored} of {len(soaked.windows)} windows were scored by every validator")
    found += [f"the chain never heard weights of {name}" for name, count in soaked.weights_set.items() if not count]
    return found


def summary(soaked: Soaked) -> dict[str, Any]:
    seen = trends(soaked)
    return {
        "format": FORMAT,
        "seed": soaked.seed,
        "windows": len(soaked.windows),
        "seconds": round(soaked.seconds, 1),
        "faults": [
            {"at_s": round(at, 1), "window": one.window, "part": one.part, "what": one.what, "blocks": one.blocks}
            for at, one in soaked.faults
        ],
        "scored_by_all": len(soaked.bodies.alike) + len(soaked.bodies.divided),
        "judged_alike": len(soaked.bodies.alike),
        "judged_differently": {str(window): why for window, why in soaked.bodies.divided.items()},
        "unfounded": list(soaked.unfounded),
        "roles": {
            role: {
                "done": len(account.done),
                "with_reason": len(account.reasons),
                "reasons": dict(Counter(account.reasons.values()).most_common(8)),
                "untold": list(account.untold),
            }
            for role, account in soaked.accounts.items()
        },
        "weights_set": dict(soaked.weights_set),
        "restarts": dict(soaked.restarts),
        "latency_s": {
            name: {"median": round(median(found.values()), 2), "largest": round(max(found.values()), 2)}
            for name, found in soaked.latencies.items()
            if found
        },
        "trends": {
            what: {
                "slope_a_window": round(one.slope, 3),
                "limit": limit.each_window,
                "first": round(one.first),
                "last": round(one.last),
                "leaks": one.leaks(limit),
            }
            for what, (one, limit) in seen.items()
        },
        "trend_shown": bool(seen) and not without_trend(soaked),
        "without_trend": without_trend(soaked),
        "problems": problems(soaked),
    }


# --- the drawing ------------------------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, PANEL, GAP, TOP = 860, 70, 150, 150, 56, 60
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
BAND = {"chain": "#fff3cd", "store": "#d9ecff", "beacon": "#f3d9ff"}


def plot(soaked: Soaked) -> str:
    """Memory, descriptors and window latency over the run; bands where something outside failed."""
    names = sorted({name for one in soaked.samples for name in one.holdings})
    first, length = soaked.windows.start, soaked.windows.step
    panels: list[tuple[str, dict[str, list[tuple[int, float]]]]] = [
        ("memory, MiB", {name: _points(soaked, name, lambda one: one.memory / 2**20) for name in names}),
        ("descriptors", {name: _points(soaked, name, lambda one: one.descriptors) for name in names}),
        (
            "challenge to verdict, s",
            {n: [((w - first) // length, s) for w, s in sorted(found.items())] for n, found in soaked.latencies.items()},
        ),
    ]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    height = TOP + len(panels) * (PANEL + GAP)
    said = f"{len(soaked.windows)} windows in {soaked.seconds / 60:.0f} minutes, faults outside: {len(soaked.faults)}"
    parts = [svg.label(LEFT, 22, f"Soak: {said}", bold=True)]
    for number, (title, lines) in enumerate(panels):
        parts += _panel(soaked, TOP + number * (PANEL + GAP), title, lines, colours)
    for number, (part, colour) in enumerate(BAND.items()):
        parts.append(svg.rect(LEFT + 380 + 90 * number, 12, 12, 12, fill=colour))
        parts.append(svg.label(LEFT + 398 + 90 * number, 22, f"{part} fails", small=True))
    return svg.document(WIDTH, height, parts)


def _points(soaked: Soaked, name: str, value: Any) -> list[tuple[int, float]]:
    return [(one.window, float(value(one.holdings[name]))) for one in soaked.samples if name in one.holdings]


def _panel(
    soaked: Soaked, top: int, title: str, lines: Mapping[str, list[tuple[int, float]]], colours: Mapping[str, str]
) -> list[str]:
    wide, last = WIDTH - LEFT - RIGHT, max(1, len(soaked.windows) - 1)
    most = max((value for points in lines.values() for _, value in points), default=1.0) or 1.0

    def x(window: float) -> float:
        return LEFT + wide * window / last

    def y(value: float) -> float:
        return top + PANEL - PANEL * value / most

    parts: list[str] = []
    for _, fault in soaked.faults:
        begin = fault.window + fault.offset / soaked.windows.step
        ends = begin + fault.blocks / soaked.windows.step
        parts.append(svg.rect(x(begin), top, max(1.0, x(ends) - x(begin)), PANEL, title=str(fault), fill=BAND[fault.part]))
    for share in (0.0, 0.5, 1.0):
        parts.append(svg.grid_line(LEFT, y(share * most), LEFT + wide, y(share * most)))
        parts.append(
            svg.label(
                LEFT - 6,
                y(share * most) + 4,
                f"{share * most:,.0f}" if most >= 10 else f"{share * most:.1f}",
                anchor="end",
                small=True,
            )
        )
    for window in range(0, last + 1, max(1, (last + 1) // 8)):
        parts.append(svg.label(x(window), top + PANEL + 14, str(window), anchor="middle", small=True))
    parts.append(svg.label(LEFT + wide, top + PANEL + 28, "window of the run", anchor="end", small=True))
    parts.append(svg.label(LEFT, top - 6, title, bold=True))
    ends_at: list[float] = []
    for name, points in sorted(lines.items(), key=lambda one: -(one[1][-1][1] if one[1] else 0)):
        if not points:
            continue
        colour = colours.get(name, "#222")
        parts.append(svg.polyline([(x(w), y(v)) for w, v in points], fill="none", stroke=colour, stroke_width="1.3"))
        at = max(y(points[-1][1]) + 4, ends_at[-1] + 11 if ends_at else top)
        ends_at.append(at)
        parts.append(svg.text(LEFT + wide + 6, at, name, font_size="10", fill=colour))
    return parts


def table(soaked: Soaked) -> list[str]:
    """A few lines for people."""
    lines = [f"{'':<14}{'done':>6}{'with a reason':>15}{'memory, MiB':>13}{'descriptors':>13}"]
    for role, account in soaked.accounts.items():
        now: Holding | None = next((s.holdings[role] for s in reversed(soaked.samples) if role in s.holdings), None)
        held = f"{now.memory / 2**20:>13.0f}{now.descriptors:>13}" if now is not None else ""
        lines.append(f"{role:<14}{len(account.done):>6}{len(account.reasons):>15}{held}")
    return [*lines, leaks_looked_at(soaked)]
