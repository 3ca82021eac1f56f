"""Options made from a dataclass of knobs: name, type, bounds, help and default are what its fields say."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from grail_core.participant.knobs import Knob, knobs_of


def knob_options(kind: type, argument: str, *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds an option for each knob of the dataclass `kind`, or for those named; the command gets it filled as `argument`."""
    knobs = knobs_of(kind)
    chosen = names or tuple(knobs)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*arguments: Any, **rest: Any) -> Any:
            filled = kind(**{name: rest.pop(name) for name in chosen})
            return command(*arguments, **{argument: filled}, **rest)

        hints = get_type_hints(kind)
        decorated: Callable[..., Any] = wrapped
        for name in reversed(chosen):
            decorated = _option(name, *knobs[name], hints[name])(decorated)
        return decorated

    return decorate


def section_options(kind: type, argument: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for every knob of every section of `kind`, a dataclass whose fields are dataclasses of knobs; the command gets it
    filled as `argument`. A section that is added, and a knob in one, need nothing else. With `SectionedCommand`, `--help` shows
    section by section.

    Raises:
        ValueError: two sections have a knob of one name.
    """
    hints = get_type_hints(kind)
    sections = {one.name: hints[one.name] for one in dataclasses.fields(kind)}
    names = [name for section in sections.values() for name in knobs_of(section)]
    if len(set(names)) != len(names):
        raise ValueError(f"two sections of {kind.__name__} have a knob of one name: {sorted(names)}")

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*arguments: Any, **rest: Any) -> Any:
            filled = {
                title: section(**{name: rest.pop(name) for name in knobs_of(section)}) for title, section in sections.items()
            }
            return command(*arguments, **{argument: kind(**filled)}, **rest)

        decorated: Callable[..., Any] = wrapped
        for title, section in reversed(sections.items()):
            types = get_type_hints(section)
            for name, (knob, default) in reversed(knobs_of(section).items()):
                decorated = _option(name, knob, default, types[name], title)(decorated)
        return decorated

    return decorate


class SectionedCommand(click.Command):
    """A command whose help shows the options of `section_options` under the names of their sections, below all others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(option, "section", ""), []).append(record)
        for title in sorted(sections, key=bool):
            with formatter.section(f"{title.replace('_', ' ').capitalize()} options" if title else "Options"):
                formatter.write_dl(sections[title])


class _SectionOption(click.Option):
    def __init__(self, *declarations: Any, section: str = "", **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.section = section


def _option(name: str, knob: Knob, default: Any, hint: Any, section: str = "") -> Callable[..., Any]:
    flag = knob.option or "--" + name.replace("_", "-")
    if hint is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    return click.option(
        flag,
        name,
        cls=_SectionOption,
        section=section,
        type=_type(knob, hint),
        default=default,
        show_default=True,
        help=knob.about,
    )


def _type(knob: Knob, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if hint in (int, float) and knob.least is knob.most is knob.above is None:
        return hint
    if hint is int:
        return click.IntRange(_whole(knob.least), _whole(knob.most))
    if hint is float:
        least = knob.least if knob.above is None else knob.above
        return _FiniteRange(least, knob.most, min_open=knob.above is not None)
    return hint


def _whole(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


class _FiniteRange(click.FloatRange):
    """`nan` lies in every range of click's, `inf` in every open one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number
