"""What the study tells: one JSON file, tables for `docs/proof.md`, a table for a terminal, one flat object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from grail_core.proof.calibration import CalibrationTable, thresholds_of

RESULT: Final = "power.json"
_MARK: Final = "written by hatch run bench power --sizes"
_LISTED: Final = ("sketch_ratio", "twin_margin", "logprob_ratio", "twin_logprob")

Found = Mapping[str, Any]


def publish(found: Found, docs: Path) -> None:
    """power.json, and the tables between the marks of proof.md."""
    (docs / RESULT).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    page = docs / "proof.md"
    text = page.read_text()
    for write in (models, honest, nulls, deviations, needs, distances):
        text = _between_marks(text, write.__name__, write(found))
    page.write_text(text)


def _between_marks(text: str, name: str, body: str) -> str:
    begin, end = f"<!-- {name}: {_MARK} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no place for {name}: {begin} … {end}")
    return f"{before}{begin}\n{body}\n{end}{after}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def models(found: Found) -> str:
    """Of every size: what was learned, and how much is measured of it."""
    lines = [["size", "parameters", "tokens learned", "cross-entropy, nats", "own drift, RMS z", "own logit noise, nats"]]
    for size in found["sizes"]:
        told, first = size["model"], size["honest"]["numerics"][0]
        learned = f"{told['first_loss']} → {told['last_loss']}" if told["tokens_seen"] else "–"
        lines.append(
            [
                size["name"],
                f"{told['parameters']:,}",
                f"{told['tokens_seen']:,}" if told["tokens_seen"] else "none",
                learned,
                f"{first['own_drift']:.4f}",
                f"{first['own_noise']:.4f}",
            ]
        )
    return _markdown(lines)


def honest(found: Found) -> str:
    """Honest values a rollout and honest rejects."""
    lines = [["size", "numerics", *(f"{name}: mean, sd, largest" for name in _LISTED), "rollouts", "windows rejected"]]
    for size in found["sizes"]:
        for one in size["honest"]["numerics"]:
            values = ["{:+.3f}, {:.3f}, {:+.2f}".format(*one[name]) for name in _LISTED]
            rejected = f"{one['rejected']} of {one['windows']}"
            lines.append([size["name"], one["numerics"], *values, f"{one['rollouts']:,}", rejected])
    together = [
        [
            "size",
            "rollouts",
            "of these under alternatives",
            "windows",
            "rejected",
            "rate at 95 % below",
            "by nulls without this shape",
        ]
    ]
    for size in found["sizes"]:
        of, without = size["honest"], size["without"]
        bound = f"{of['upper_bound_per_window_95']:.2g}" if of["windows"] else "–"
        aside = f"{without['rejected']} of {without['windows']}" if without["windows"] else "the table has none"
        together.append(
            [size["name"], f"{of['rollouts']:,}", f"{of['compared']:,}", str(of["windows"]), str(of["rejected"]), bound, aside]
        )
    return f"{_markdown(together)}\n\n{_markdown(lines)}"


def nulls(found: Found) -> str:
    """The table's thresholds."""
    table = CalibrationTable.from_json(found["table"])
    lines = [["miner at validator", "statistic", "8 rollouts", "16", "32", "64", "dead zone in it"]]
    for pair in table.pairs.values():
        for name, by_size in thresholds_of(pair).items():
            which = f"{_kind(pair.miner)} at {_kind(pair.validator)}"
            lines.append([which, name, *(f"{value:.3f}" for value in by_size.values()), f"{pair.nulls[name].dead_zone:.3f}"])
    pair = next(iter(table.pairs.values()))
    said = f"`{table.version}`: {pair.tokens:,} positions of {pair.checkpoints} checkpoints in the first pair."
    return f"{_markdown(lines)}\n\n{said}"


def _kind(name: str) -> str:
    return "eager" if "eager" in name else "SDPA"


def deviations(found: Found) -> str:
    """Power of one window as enforced, a row a deviation and a column a size."""
    sizes = found["sizes"]
    lines = [["threat", "deviation", *(size["name"] for size in sizes)]]
    for threat, name in _rows(sizes):
        lines.append([threat, name, *(_power(_row(size, name)) for size in sizes)])
    return _markdown(lines)


def needs(found: Found) -> str:
    """The statistic that needs least, and its positions, in the same order."""
    sizes = found["sizes"]
    lines = [["threat", "deviation", *(size["name"] for size in sizes)]]
    for threat, name in _rows(sizes):
        rows = [_row(size, name) for size in sizes]
        if any(row is not None and row["statistics"] for row in rows):  # mixed files are told as windows alone
            lines.append([threat, name, *map(_need, rows)])
    return _markdown(lines)


def distances(found: Found) -> str:
    """How far named alternatives lie from the model, in units of its own drift."""
    names = list(dict.fromkeys(name for size in found["sizes"] for name in _distances(size)))
    lines = [["RMS Δ over own drift", *names]]
    for size in found["sizes"]:
        of = _distances(size)
        lines.append([size["name"], *(f"{of[name]:.2f}" if name in of else "–" for name in names)])
    return _markdown(lines)


def _distances(size: Found) -> dict[str, float]:
    steps = {f"step of {rate}": _row(size, f"previous checkpoint, lr {rate}") for rate in ("1e-6", "3e-6", "1e-5")}
    return {**size["distances"], **{name: row["distances"]["previous-1"] for name, row in steps.items() if row}}


def _rows(sizes: Sequence[Found]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["threat"], row["name"]) for size in sizes for row in size["deviations"]))


def _row(size: Found, name: str) -> Found | None:
    return next((row for row in size["deviations"] if row["name"] == name), None)


def _power(row: Found | None) -> str:
    if row is None:
        return "–"
    power = row["enforced_window_power"]
    if power["low"] == power["high"]:
        return f"{power['value']:.2f}"
    return f"{power['value']:.2f} ({power['low']:.2f}–{power['high']:.2f})"


def _need(row: Found | None) -> str:
    if row is None or not row["statistics"]:
        return "–"
    if row["tokens_to_detect"] is None:
        return "not seen"
    return f"{row['best_statistic']} {row['tokens_to_detect']:,}{'*' if row['extrapolated'] else ''}"


def flat(found: Found) -> dict[str, float | str]:
    """One flat object; a deviation that nothing detects has no tokens, one that nothing sees in any window no statistic."""
    figures: dict[str, float | str] = {}
    for size in found["sizes"]:
        head = f"power.{_key(size['name'])}"
        of = size["honest"]
        figures |= {f"{head}.honest_{name}": of[name] for name in ("rollouts", "windows", "rejected")}
        figures[f"{head}.false_reject_bound_95"] = of["upper_bound_per_window_95"]
        for row in size["deviations"]:
            key = _key(row["name"])
            figures[f"{head}.enforced.{key}"] = row["enforced_window_power"]["value"]
            figures[f"{head}.window.{key}"] = row["window_power"]
            if row["tokens_to_detect"] is not None:
                figures[f"{head}.tokens.{key}"] = row["tokens_to_detect"]
                figures[f"{head}.statistic.{key}"] = row["best_statistic"]
    return figures


def _key(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name.lower().replace("×", "x"))


_NOTES = {
    "full": [],
    "extended": ["  larger than what the table was fitted to: judged with its dead zones doubled"],
    "none": ["  the table does not reach this shape: of it the coarse bounds alone are enforced, hence low figures there"],
}


def table(found: Found) -> str:
    """For a terminal."""
    lines = []
    for size in found["sizes"]:
        of = size["honest"]
        first = of["numerics"][0]
        lines += [
            f"{size['name']}: own drift {first['own_drift']:.4f}, own logit noise {first['own_noise']:.4f} nats; honest: "
            f"{of['rollouts']} rollouts, {of['rejected']} of {of['windows']} windows rejected",
            *_NOTES[size["coverage"]],
            *(
                f"  {one['numerics']}: " + ", ".join("{} {:+.3f} ± {:.3f}".format(name, *one[name][:2]) for name in _LISTED)
                for one in of["numerics"]
            ),
            "  RMS Δ over own drift: " + ", ".join(f"{name} {value:.2f}" for name, value in size["distances"].items()),
            f"  {'':4}{'deviation':92}{'statistic':26}{'tokens':>9}{'window':>8}{'enforced':>10}",
        ]
        for row in size["deviations"]:
            tokens = f"{row['tokens_to_detect']:,}" if row["tokens_to_detect"] else "–"
            lines.append(
                f"  {row['threat']:4}{row['name']:92}{row['best_statistic'] or '–':26}{tokens:>9}"
                f"{row['window_power']:>8.2f}{row['enforced_window_power']['value']:>10.2f}"
            )
    lines += [
        "tokens: positions until one statistic alone rejects with power 0.99",
        "window: that statistic's power in one window of 64 rollouts, as if it were enforced",
        "enforced: the power of all tests together, as validators decide",
    ]
    return "\n".join(lines)
