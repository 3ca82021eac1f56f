"""Options made from a dataclass of knobs: name, type, bounds, help and default are what its fields say."""

from __future__ import annotations

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


def _option(name: str, knob: Knob, default: Any, hint: Any) -> Callable[..., Any]:
    flag = knob.option or "--" + name.replace("_", "-")
    if hint is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    return click.option(flag, name, type=_type(knob, hint), default=default, show_default=True, help=knob.about)


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
