"""The plan of a call: which memory there is, in which order it is filled, copied and handed to kernels, and what is returned.

It is all that leaves the process in which an answer's Python ran, and that process may write whatever it likes. So the
language of plans has no operation that computes: whoever forges a plan has only launched kernels another way. `Plan.read`
checks form, bounds and sizes, and every view is within its buffer. Standard library only.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any, Final

ITEM_BYTES: Final = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8,
    "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "bool": 1,
}  # fmt: skip
MAX_BUFFERS: Final = 256
MAX_STEPS: Final = 1024
MAX_BYTES: Final = 64 * 2**20
MAX_DIMENSIONS: Final = 8
MAX_ARGUMENTS: Final = 64
MAX_PROGRAMS: Final = 2**31
GRID_SIDES: Final = (2**31 - 1, 65_535, 65_535)
"""The most programs that a GPU takes along x, y and z."""
OPTIONS: Final = {"num_warps": (1, 2, 4, 8, 16, 32), "num_stages": tuple(range(1, 11)), "num_ctas": (1,)}
_TYPES = """
float16 bfloat16 float32 float64 int1 int8 int16 int32 int64 uint8 uint16 uint32 uint64
"""
TYPES: Final = frozenset(_TYPES.split())


class PlanError(Exception):
    """What was sent is no plan; its text is for a person."""


@dataclass(frozen=True)
class Buffer:
    """One allocation. `source` names an input or a weight whose bytes it holds ("" for memory that nobody has written)."""

    size: int
    source: str = ""


@dataclass(frozen=True)
class View:
    """Elements of a buffer; `shape`, `stride` and `offset` in elements."""

    buffer: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Kind:
    """A type of Triton's as an argument (`tl.float32`)."""

    name: str


Argument = View | Kind | int | float | bool | str | None


@dataclass(frozen=True)
class Fill:
    """Every element of `view` becomes `value`."""

    view: View
    value: float | int


@dataclass(frozen=True)
class Copy:
    """`source` is copied to `to`, which has the same shape and may have another type."""

    to: View
    source: View


@dataclass(frozen=True)
class Launch:
    """A kernel over a grid, with every argument by the name of its parameter."""

    kernel: str
    grid: tuple[int, int, int]
    arguments: dict[str, Argument]
    options: dict[str, int]


Step = Fill | Copy | Launch


@dataclass(frozen=True)
class Plan:
    """What a call of `forward` does with memory."""

    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    outputs: tuple[View, ...]

    @property
    def launches(self) -> list[Launch]:
        return [step for step in self.steps if isinstance(step, Launch)]

    @classmethod
    def read(cls, said: Any) -> Plan:
        """A plan from what another process sent.

        Raises:
            PlanError: it is none, or larger than a plan may be.
        """
        try:
            return _plan(said)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PlanError(f"no plan: {type(error).__name__}") from None

    def said(self) -> dict[str, Any]:
        """The plan in the one form that another process is sent and that seeds follow from."""
        return {
            "buffers": [{**vars(buffer)} for buffer in self.buffers],
            "steps": [_step_said(step) for step in self.steps],
            "outputs": [_argument_said(view) for view in self.outputs],
        }


def _plan(said: Any) -> Plan:
    buffers = tuple(Buffer(_whole(one["size"], MAX_BYTES), _text(one["source"])) for one in _list(said["buffers"], MAX_BUFFERS))
    if sum(buffer.size for buffer in buffers) > MAX_BYTES:
        raise PlanError(f"it asks for more than {MAX_BYTES >> 20} MiB of memory")
    steps = tuple(_step(one, buffers) for one in _list(said["steps"], MAX_STEPS))
    outputs = tuple(_view(one, buffers) for one in _list(said["outputs"], MAX_ARGUMENTS))
    return Plan(buffers, steps, outputs)


def _step(said: Any, buffers: tuple[Buffer, ...]) -> Step:
    match said["do"]:
        case "fill":
            value = _argument(said["value"], buffers)
            if type(value) not in (int, float):
                raise PlanError("a fill without a number")
            assert isinstance(value, int | float)
            return Fill(_written(said["view"], buffers), value)
        case "copy":
            to, source = _written(said["to"], buffers), _view(said["source"], buffers)
            if to.shape != source.shape:
                raise PlanError("a copy between two shapes")
            return Copy(to, source)
        case "launch":
            grid = tuple(_whole(size, MAX_PROGRAMS) for size in _list(said["grid"], 3))
            if len(grid) == 3 and any(size > most for size, most in zip(grid, GRID_SIDES, strict=True)):
                raise PlanError("a grid of more than 2147483647 programs along x, or 65535 along y or z, which no GPU takes")
            if len(grid) != 3 or grid[0] * grid[1] * grid[2] > MAX_PROGRAMS:
                raise PlanError("a launch over no grid")
            given = said["arguments"]
            if not isinstance(given, dict) or len(given) > MAX_ARGUMENTS:
                raise PlanError("a launch without arguments by name")
            arguments = {_text(name): _argument(value, buffers) for name, value in given.items()}
            options = {name: said["options"][name] for name in OPTIONS if name in said["options"]}
            if any(type(value) is not int or value not in OPTIONS[name] for name, value in options.items()):
                raise PlanError(f"launch options are {', '.join(OPTIONS)}, within what a GPU has")
            return Launch(_text(said["kernel"]), grid, arguments, options)
    raise PlanError("an unknown step")


def _written(said: Any, buffers: tuple[Buffer, ...]) -> View:
    view = _view(said, buffers)
    source = buffers[view.buffer].source
    if source:
        raise PlanError(f"{source.replace(':', ' ')[:60]} is written to outside of a kernel")
    return view


def _argument(said: Any, buffers: tuple[Buffer, ...]) -> Argument:
    if type(said) is float:
        return _as_single(said)
    if said is None or type(said) is bool or (type(said) is str and len(said) <= 100):
        argument: Argument = said
        return argument
    if type(said) is int and abs(said) < 2**63:
        return said
    if isinstance(said, dict) and said.get("float") in ("inf", "-inf", "nan"):
        return float(said["float"])
    if isinstance(said, dict) and said.get("type") in TYPES:
        return Kind(said["type"])
    return _view(said, buffers)


def _step_said(step: Step) -> dict[str, Any]:
    match step:
        case Fill():
            return {"do": "fill", "view": _argument_said(step.view), "value": _argument_said(step.value)}
        case Copy():
            return {"do": "copy", "to": _argument_said(step.to), "source": _argument_said(step.source)}
        case Launch():
            arguments = {name: _argument_said(value) for name, value in step.arguments.items()}
            said = {"do": "launch", "kernel": step.kernel, "grid": [*step.grid]}
            return {**said, "arguments": arguments, "options": step.options}


def _argument_said(argument: Argument) -> Any:
    match argument:
        case View():
            return {**vars(argument), "shape": [*argument.shape], "stride": [*argument.stride]}
        case Kind():
            return {"type": argument.name}
        case float():
            return number_said(argument)
    return argument


def _as_single(value: float) -> float:
    """Rounded to float32, as a kernel is given it: the last bits of a double are not the same on every machine."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _view(said: Any, buffers: tuple[Buffer, ...]) -> View:
    number = _whole(said["buffer"], len(buffers) - 1)
    shape = tuple(_whole(size, 2**40) for size in _list(said["shape"], MAX_DIMENSIONS))
    stride = tuple(_whole(size, 2**40) for size in _list(said["stride"], MAX_DIMENSIONS))
    view = View(number, _text(said["dtype"]), shape, stride, _whole(said["offset"], 2**40))
    if math.prod(shape) * ITEM_BYTES[view.dtype] > MAX_BYTES:
        raise PlanError("a view larger than all memory")
    last = view.offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and (last + 1) * ITEM_BYTES[view.dtype] > buffers[number].size:
        raise PlanError("a view beyond its memory")
    return view


def without_addresses(text: str) -> str:
    """A message as it is on every machine."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x…", text)


def number_said(value: int | float) -> Any:
    """A number as a plan says it: JSON has none that are not finite."""
    return value if isinstance(value, int) or math.isfinite(value) else {"float": str(value)}


def _list(said: Any, most: int) -> list[Any]:
    if not isinstance(said, list) or len(said) > most:
        raise PlanError(f"a list of more than {most} parts, or none")
    return said


def _whole(said: Any, most: int) -> int:
    if type(said) is not int or not 0 <= said <= most:
        raise PlanError("a number out of its bounds")
    return said


def _text(said: Any) -> str:
    if type(said) is not str or len(said) > 200:
        raise PlanError("no name")
    return said
