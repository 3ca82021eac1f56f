"""How large the numbers of a configuration may be: whoever loads a model makes what they say before any tensor is looked at."""

from __future__ import annotations

import re
from typing import Any

from grail_core.errors import CheckpointError

_COUNTED = (("layer", 1 << 10), ("expert", 1 << 12), ("head", 1 << 16))
_COUNTS = re.compile(r"(^|_)(n|num|number)_.*(?P<what>layer|expert|head)|^(\w+_)?(?P<alone>layer|expert|head)s$")
MAX_MODULES = 1 << 17
"""Layers times experts: a model is made module by module. The largest published ones have 25,000."""
MAX_SIZE = 1 << 31
"""Of any whole number in config.json: widths, vocabularies, contexts."""


def bound_sizes(config: Any, where: str) -> None:
    """Refuse a configuration whose numbers would cost its readers time and memory: layer by layer, expert by expert.

    Raises:
        CheckpointError: a number that no model has, here or in a nested configuration.
    """
    left: list[Any] = [config]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left.extend(one)
            continue
        if not isinstance(one, dict):
            continue
        left.extend(one.values())
        most_of = {"layer": 1, "expert": 1}
        for name, value in one.items():
            if not isinstance(value, int) or isinstance(value, bool):
                continue
            counts = _COUNTS.search(name)
            word = (counts["what"] or counts["alone"]) if counts else ""
            most = dict(_COUNTED).get(word, MAX_SIZE)
            if not -MAX_SIZE <= value <= most:
                raise CheckpointError(
                    f"{name[:80]} is {value if abs(value) < 1 << 64 else 'a huge number'}, at most {most} is loaded",
                    where=where,
                    hint="the configuration is damaged, or made to cost its readers time and memory",
                )
            if word in most_of:
                most_of[word] = max(most_of[word], value)
        layers, experts = most_of["layer"], most_of["expert"]
        if layers * experts > MAX_MODULES:
            raise CheckpointError(
                f"{layers} layers of {experts} experts are more modules than the {MAX_MODULES} that are loaded",
                where=where,
                hint="the configuration is damaged, or made to cost its readers time and memory",
            )
