"""How a setting is declared: one field that says its name, its meaning, what it is when nobody sets it, and who reads it.

Values come as the text of an environment variable, or as what a TOML file has. They are read strictly: a switch is `true` or
`false`, a number is a number; whatever else stands there is an error with the words of `wanted`, never a guess.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

EVERYBODY, NETWORKED, ROLES = "every command", "every role, `grail`", "every role"
MINER = "miner"
CHAIN, NETWORK, BUCKETS, MACHINE, MINING = "Chain and keys", "Network", "Buckets", "This machine", "Miner"
SERVING, MONITORING = "Inference on request", "Monitoring"


def setting(name: str, section: str, read_by: str, meaning: str, *, shown: str = "", wanted: str = "", **more: Any) -> Any:
    """A field. `read_by`: who has a use for it.

    Args:
        shown: the default as it is told, where its value does not tell it.
        wanted: what it can be, in words, where its type does not tell it.
    """
    about = {"section": section, "read_by": read_by, "shown": shown, "wanted": wanted}
    return Field(alias=name, description=meaning, json_schema_extra=cast(Any, about), **more)


def wanted(field: FieldInfo) -> str:
    """What a setting can be, in words."""
    said = cast("dict[str, str]", field.json_schema_extra)["wanted"]
    if said:
        return said
    kind = field.annotation
    if get_origin(kind) is Union or type(kind).__name__ == "UnionType":
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    if kind is bool:
        return "true or false"
    if kind is int:
        return f"a whole number from {bounds['Ge'].ge} to {bounds['Le'].le}"
    if kind is float:
        return f"a number from {bounds['Ge'].ge} to {bounds['Le'].le}, with a point and no % (0.9)"
    return "a text (in quotes, where it stands in a TOML file)"


def _whole_number(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        return int(value)
    if type(value) is int:
        return value
    raise AssertionError  # pydantic makes an error of it; `wanted` says what it should have been


def _number(value: object) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?|\.[0-9]{1,12}", value):
        return float(value)
    if type(value) in (int, float) and math.isfinite(cast(float, value)):
        return float(cast(float, value))
    raise AssertionError


def _switch(value: object) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if type(value) is bool:
        return value
    raise AssertionError


def expanded(value: Path) -> Path:
    """Absolute: engines, proof workers and graders are told of it, and work in folders of their own. Links stay as they are,
    since an environment's interpreter is one.

    Raises ValueError where there is no home folder.
    """
    try:
        return value.expanduser().absolute()
    except RuntimeError:
        raise ValueError("there is no home folder that ~ could stand for") from None


def _device(value: str) -> str:
    """By its form alone: which devices are there is looked up where one is used."""
    if not re.fullmatch(r"cpu|(cuda|mps|xpu)(:[0-9]{1,3})?", value):
        named = " (what others call gpu is cuda here)" if value.lower().startswith(("gpu", "nvidia")) else ""
        raise ValueError(f"it is no torch device{named}")
    return value


def _digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError("it is no digest")
    return value.lower()


WholeNumber = Annotated[int, BeforeValidator(_whole_number)]
Number = Annotated[float, BeforeValidator(_number)]
Switch = Annotated[bool, BeforeValidator(_switch)]
DeviceName = Annotated[str, AfterValidator(_device)]
HexDigest = Annotated[str, AfterValidator(_digest)]
"""A SHA-256 in lower case, whatever it was written in."""
FilePath = Annotated[Path, AfterValidator(expanded)]
