"""Hyper-parameters as a training log says them, back into what an update takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from grail_core.errors import ConfigurationError
from grail_core.protocol.reading import Node
from grail_trainer.hyper_parameters import HyperParameters


def said_settings(said: Mapping[str, Any]) -> HyperParameters:
    """Inverse of `HyperParameters.to_json`.

    Raises:
        ValueError: a section or knob is unknown or missing (another version's), or a value is none that it takes.
    """
    return _filled(HyperParameters, Node(said, "$settings"))  # type: ignore[no-any-return]


def _filled(kind: type, node: Node) -> Any:
    hints = get_type_hints(kind)
    members = node.members(*(one.name for one in fields(kind)))
    values = {name: _value(hints[name], member) for name, member in members.items()}
    try:
        return kind(**values)
    except ConfigurationError as error:  # of the knobs' bounds
        raise ValueError(f"{node.path}: {error.what}") from error


def _value(hint: Any, node: Node) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return _filled(hint, node)
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        if node.value is None:
            return None
        (hint,) = (one for one in get_args(hint) if one is not type(None))
        return _value(hint, node)
    if origin is Literal:
        text = node.text(64)
        return text if text in get_args(hint) else node.refuse(f"{text!r} is none of {', '.join(get_args(hint))}")
    if origin is tuple:
        return tuple(_value(get_args(hint)[0], one) for one in node.items(128))
    if hint is bool:
        return node.flag()
    if hint is int:
        return node.integer(-(2**53) + 1)
    if hint is float:
        return _fraction(node)
    return node.text(512)


def _fraction(node: Node) -> float:
    text = node.text(64)
    try:
        value = float(text)
    except ValueError:
        node.refuse(f"{text!r} is no number")
    return value if repr(value) == text else node.refuse(f"{text!r} is not the shortest form, {value!r}")
