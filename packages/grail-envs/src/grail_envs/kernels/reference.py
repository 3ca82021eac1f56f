"""The right outputs of a task: its own module, run on fresh inputs in a process that no answer is ever in.

Inputs and weights are drawn by MT19937 as NumPy froze it, in the place of PyTorch's generator, so that a seed gives the same
bytes with every version; weights that a module makes constant are drawn too. Outputs are computed in float64 from those very
values; a module that only works in its own types is run in them.
"""

from __future__ import annotations

import base64
import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

MAX_ELEMENTS: Final = 2**20
"""Of all inputs, weights and outputs of one draw: what the interpreter can work through."""


class TooLargeError(Exception):
    """The task has more elements than are judged without a GPU."""


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every random operation draws from the frozen generator; the rest is PyTorch's."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source = np.random.RandomState(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func._schema.name).removeprefix("aten::")
        result = func(*args, **(kwargs or {}))
        drawn = self._drawn(name, args, kwargs or {}, result)
        if drawn is not None:
            result.copy_(torch.from_numpy(np.ascontiguousarray(drawn)))
        return result

    def _drawn(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> Any:
        if name in ("randn", "randn_like"):
            return self._source.standard_normal(tuple(result.shape))
        if name in ("rand", "rand_like"):
            return self._source.random_sample(tuple(result.shape))
        if name in ("normal_", "uniform_"):
            default = (0.0, 1.0)
            first, second = (*args[1:], *default[len(args) - 1 :])[:2]
            first, second = kwargs.get("mean", kwargs.get("from", first)), kwargs.get("std", kwargs.get("to", second))
            if name == "normal_":
                return first + second * self._source.standard_normal(tuple(result.shape))
            return first + (second - first) * self._source.random_sample(tuple(result.shape))
        if name == "randint":
            numbers = [one for one in args if isinstance(one, int)]
            low, high = (numbers[0], numbers[1]) if len(numbers) > 1 else (0, numbers[0])
            return self._source.randint(low, high, tuple(result.shape))
        if name in ("randperm", "bernoulli_", "bernoulli", "multinomial", "exponential_"):
            raise NotImplementedError(f"a task that draws by {name}")
        return None


@dataclass(frozen=True)
class _Made:
    """A task's module with its arguments, and inputs of one seed."""

    model: Any
    init: list[Any]
    inputs: list[Any]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict() if isinstance(self.model, torch.nn.Module) else {}


def shapes(task: dict[str, Any]) -> dict[str, Any]:
    """The shapes of a task `{"source", "seed"}` as `[name, type, shape]`, and about how many bytes a draw of it takes as text.

    Raises:
        TooLargeError: more elements than `MAX_ELEMENTS`.
        Exception: whatever the task's module raises.
    """
    with torch.no_grad():
        made = _made(task)
        tensors = [one for one in (*made.inputs, *made.weights.values()) if isinstance(one, torch.Tensor)]
        outputs = _tensors(made.model(*_copies(made.inputs)))
        _check_size([*tensors, *outputs])
        size = sum(one.numel() * one.element_size() for one in tensors) + sum(8 * one.numel() for one in outputs)
        said = _given(made, _shape_said)
        return {**said, "size": 4 * size // 3 + 1000}


def draw(task: dict[str, Any]) -> dict[str, Any]:
    """One draw of a task `{"source", "seed"}`: inputs, weights and right outputs, as `[name, type, shape, base64]`.

    Raises:
        TooLargeError: more elements than `MAX_ELEMENTS`.
        Exception: whatever the task's module raises.
    """
    with torch.no_grad():
        made = _made(task)
        said = _given(made, _said)
        plain = _tensors(made.model(*_copies(made.inputs)))
        exact = _exact(made.model, made.inputs) or plain
        _check_size([one for one in (*made.inputs, *made.weights.values(), *plain) if isinstance(one, torch.Tensor)])
    said["outputs"] = [_said(str(own.dtype).removeprefix("torch."), right) for own, right in zip(plain, exact, strict=True)]
    return said


def _made(task: dict[str, Any]) -> _Made:
    module = types.ModuleType("task")
    exec(compile(task["source"], "<task>", "exec", dont_inherit=True), module.__dict__)
    with torch.device("meta"):
        _check_size([one for one in _pytree.tree_leaves(module.get_inputs()) if isinstance(one, torch.Tensor)])
    with _Draws(task["seed"] % 2**32):
        init = list(module.get_init_inputs())
        model = module.Model(*init)
        if isinstance(model, torch.nn.Module):
            _draw_constants(model)
        return _Made(model, init, list(module.get_inputs()))


def _draw_constants(model: torch.nn.Module) -> None:
    """Draw weights and buffers that are made constant (a norm's 1 and 0): an answer without them would be right.

    What is 0 becomes normal, another number at most half as much more or less, with its sign.
    """
    for value in model.state_dict().values():
        if not value.is_floating_point() or not value.numel() or not bool((value == value.reshape(-1)[0]).all()):
            continue
        constant = float(value.reshape(-1)[0])
        if math.isfinite(constant):
            drawn = constant * (torch.rand(value.shape) + 0.5) if constant else 0.5 * torch.randn(value.shape)
            value.copy_(drawn)


def _given(made: _Made, say: Callable[[str, Any], list[Any]]) -> dict[str, Any]:
    return {
        "init": made.init,
        "inputs": [say(str(number), value) for number, value in enumerate(made.inputs)],
        "weights": [say(name, value) for name, value in made.weights.items()],
    }


def _check_size(tensors: list[torch.Tensor]) -> None:
    count = sum(one.numel() for one in tensors)
    if count > MAX_ELEMENTS:
        raise TooLargeError(f"{count} elements of inputs, weights and outputs, {MAX_ELEMENTS} are judged without a GPU")


def _exact(model: Any, inputs: list[Any]) -> list[torch.Tensor] | None:
    """The outputs in float64; None where the module does not work in it."""
    try:
        wide = model.double() if isinstance(model, torch.nn.Module) else model
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return _tensors(wide(*[_widened(value) for value in _copies(inputs)]))
        finally:
            torch.set_default_dtype(before)
    except (RuntimeError, TypeError, ValueError):
        return None


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _copies(inputs: list[Any]) -> list[Any]:
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]


def _tensors(result: Any) -> list[torch.Tensor]:
    found = list(result) if isinstance(result, tuple | list) else [result]
    if not all(isinstance(one, torch.Tensor) for one in found):
        raise TypeError("a task returns tensors")
    return found


def _shape_said(name: str, value: Any) -> list[Any]:
    if not isinstance(value, torch.Tensor):
        return [name, "value", value]
    return [name, str(value.dtype).removeprefix("torch."), list(value.shape)]


def _said(name: str, value: Any) -> list[Any]:
    if not isinstance(value, torch.Tensor):
        return [name, "value", value]
    flat = value.detach().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return [name, str(value.dtype).removeprefix("torch."), list(value.shape), base64.b64encode(raw).decode()]
