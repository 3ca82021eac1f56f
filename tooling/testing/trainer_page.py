"""`python -m tooling.testing.trainer_page [--check]`: tables of docs/trainer.md on alarms and metrics, from their declarations.

Bounds, defaults and actions are those of `grail_trainer.alarm_settings`, names, units and meanings those of
`grail_trainer.metrics`; change them there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from grail_core.participant.knobs import knobs_of
from grail_trainer.alarm_settings import AlarmSettings
from grail_trainer.metrics import METRICS
from tooling import REPOSITORY
from tooling.testing.made_files import Maker
from tooling.testing.settings_pages import COMMAND

PAGE = Path("docs/trainer.md")


def alarm_rows() -> Iterable[tuple[str, ...]]:
    """Alarm, what raises it, the options of its bounds, and its action's default. An alarm's bounds stand before its action."""
    bounds: list[tuple[str, str]] = []
    for name, (knob, default) in knobs_of(AlarmSettings).items():
        if not name.startswith("on_"):
            option = knob.option or "--" + name.replace("_", "-")
            bounds.append((f"`{option} {default:g}`", knob.about.partition(": ")[2].rstrip(".")))
            continue
        alarm = name.removeprefix("on_")
        mine = [(option, about) for option, about in bounds if about]
        about = "; ".join(f"{option}: {about}" for option, about in mine)
        yield f"`{alarm}`", knob.about.rstrip("."), about, f"`{default}`"
        bounds = []


def metric_rows() -> Iterable[tuple[str, ...]]:
    for name, metric in METRICS.items():
        yield f"`{name}`", metric.unit, metric.about


TABLES = {
    "alarms": (("alarm", "raised", "bounds", "action"), alarm_rows),
    "metrics": (("metric", "unit", "meaning"), metric_rows),
}


def made(text: str) -> str:
    """The page with its tables as the declarations make them.

    Raises:
        ValueError: it has no place for one.
    """
    for name, (heads, rows) in TABLES.items():
        begin, end = f"<!-- {name}: made by `{COMMAND}` -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"{PAGE} has no place for the table: {begin.strip()} … {end.strip()}")
        lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (heads, ("---",) * len(heads), *rows())]
        text = before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after
    return text


def files(root: Path) -> Iterator[tuple[Path, str]]:
    """What is made, and what its text should be."""
    yield PAGE, made((root / PAGE).read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None, root: Path = REPOSITORY) -> int:
    maker = Maker("tooling.testing.trainer_page", __doc__ or "", files, "the declarations of alarms and metrics", COMMAND)
    return maker.main(arguments, root)


if __name__ == "__main__":
    sys.exit(main())
