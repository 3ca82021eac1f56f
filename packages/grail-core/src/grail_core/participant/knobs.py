"""What a command's own options fill: dataclasses whose fields say once what they mean, how far they go and what they are.

The command line is made of these declarations (`commands.knob_options`), so that `--help` cannot tell another default than the
one that runs; a library's caller meets the same bounds (`check_knobs`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final

from grail_core.errors import ConfigurationError

_KNOB = "knob"

MAX_WHOLE_NUMBER: Final = 2**53 - 1
"""What canonical JSON holds: `protocol.reading.MAX_JSON_INTEGER`, with which numpy would come, and no --help waits for it."""


@dataclass(frozen=True)
class Knob:
    """Meaning and bounds of one field. Bounds are inclusive but `above`; None: there is none."""

    about: str
    option: str | None = None  # its option's name, where it is not the field's
    least: float | None = None
    most: float | None = None
    above: float | None = None


def knob(
    default: Any,
    about: str,
    *,
    option: str | None = None,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
) -> Any:
    """A field of a dataclass that a person may turn."""
    return dataclasses.field(default=default, metadata={_KNOB: Knob(about, option, least, most, above)})


def knobs_of(kind: type) -> dict[str, tuple[Knob, Any]]:
    """Field name → its declaration and default, in the order of the fields."""
    return {one.name: (one.metadata[_KNOB], one.default) for one in dataclasses.fields(kind) if _KNOB in one.metadata}


def check_knobs(filled: Any) -> None:
    """For `__post_init__`.

    Raises:
        ConfigurationError: a number is out of its bounds, or none, or a whole one that canonical JSON does not hold: what is
            learned under it could never be published.
    """
    for name, (one, _) in knobs_of(type(filled)).items():
        value = getattr(filled, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if (
            (abs(value) > MAX_WHOLE_NUMBER if isinstance(value, int) else not math.isfinite(value))
            or (one.least is not None and value < one.least)
            or (one.most is not None and value > one.most)
            or (one.above is not None and value <= one.above)
        ):
            raise ConfigurationError(f"{name} cannot be {value}", where=name, hint=one.about)
