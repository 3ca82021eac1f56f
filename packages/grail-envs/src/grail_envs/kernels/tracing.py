"""Run an answer's Python where there is nothing to compute with, and write down what it does: the plan of each call.

`ModelNew` is made and called on tensors that have a shape, a type and no values (they say that they are on a GPU).
Allocations, views, copies and launches are recorded; every other operation of PyTorch is refused by its name, and so is reading
a value. Nothing of this is a wall: the process is confined, has no data, and what it sends is checked by `plan`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import triton
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from grail_envs.kernels.answer_module import as_written, module_of
from grail_envs.kernels.plan import ITEM_BYTES, OPTIONS, number_said, without_addresses

CUDA: Final = torch.device("cuda:0")
FILLS: Final = {"zeros": 0, "zeros_like": 0, "new_zeros": 0, "zero_": 0, "zero": 0, "ones": 1, "ones_like": 1, "new_ones": 1}
FULLS: Final = {"full": 1, "full_like": 1, "new_full": 2, "fill_": 1, "fill": 1}
"""Operations that fill with a number, and the place of that number among the arguments."""
EMPTIES: Final = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
COPIES: Final = {"clone", "_to_copy", "copy_"}
RANDOM: Final = {"uniform_", "normal_", "randn", "rand", "randn_like", "rand_like", "randint", "trunc_normal_", "erfinv_"}
MAX_LAUNCHES: Final = 256


class OutsideError(Exception):
    """The answer asked for something outside of kernels that computes or that reads values."""


class Bare(torch.Tensor):
    """A tensor without values; `meta` has its shape, type and place in memory."""

    meta: torch.Tensor

    @staticmethod
    def __new__(cls, meta: torch.Tensor) -> Bare:
        made: Bare = torch.Tensor._make_wrapper_subclass(
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=torch.device("meta"),
        )
        return made

    def __init__(self, meta: torch.Tensor) -> None:
        self.meta = meta

    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    device = property(lambda self: CUDA)

    def cuda(self, *_: Any, **__: Any) -> Bare:
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As a tensor's, all devices being one."""
        other = kwargs.pop("other", None)
        args = tuple(one.dtype if isinstance(one, torch.Tensor) else one for one in args if not _is_device(one))
        kwargs = {name: value for name, value in kwargs.items() if name != "device"}
        if other is not None:
            kwargs["dtype"] = other.dtype
        wanted = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.dtype)]
        return super().to(*args, **kwargs) if wanted else self

    def __bool__(self) -> bool:
        raise OutsideError("the truth of a tensor is read outside of a kernel")

    def tolist(self) -> Any:
        raise OutsideError("values of a tensor are read outside of a kernel")

    item = numpy = cpu = __array__ = tolist  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return Recorder.current.operate(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Recorder.current.operate(func, args, kwargs or {})


class Recorder:
    """One call's buffers and steps, while they come about."""

    current: Recorder

    def __init__(self) -> None:
        self.buffers: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.making = True
        self._numbers: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []  # a storage is known by its address, so none may go
        Recorder.current = self

    def buffer_of(self, meta: torch.Tensor) -> int:
        storage = meta.untyped_storage()
        number = self._numbers.get(storage._cdata)
        if number is None:
            number = self._numbers[storage._cdata] = len(self.buffers)
            self.buffers.append({"size": storage.nbytes(), "source": ""})
            self._kept.append(meta)
        return number

    def view(self, meta: torch.Tensor) -> dict[str, Any]:
        name = str(meta.dtype).removeprefix("torch.")
        if name not in ITEM_BYTES:
            raise OutsideError(f"a tensor of type {name}")
        return {
            "buffer": self.buffer_of(meta),
            "dtype": name,
            "shape": list(meta.shape),
            "stride": list(meta.stride()),
            "offset": int(meta.storage_offset()),
        }

    def operate(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do an operation on shapes alone, write it down if it is one of memory, refuse it if it computes."""
        name = str(func._schema.name).removeprefix("aten::")
        kwargs = {key: "meta" if key == "device" else value for key, value in kwargs.items() if key != "pin_memory"}
        plain = lambda value: value.meta if isinstance(value, Bare) else _as_meta(value, name)  # noqa: E731
        metas, named = _pytree.tree_map(plain, args), _pytree.tree_map(plain, kwargs)
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        known = is_view or name in EMPTIES or name in COPIES or name in FILLS or name in FULLS
        if not known and not self.making:
            raise OutsideError(f"torch's {name} computes outside of a kernel")
        if name == "copy_" and metas[0].shape != metas[1].shape:
            metas = (metas[0], metas[1].expand(metas[0].shape), *metas[2:])
        result = func(*metas, **named)
        if name in COPIES and name != "copy_" and isinstance(metas[0], torch.Tensor):
            self.steps.append({"do": "copy", "to": self.view(result), "source": self.view(metas[0])})
        elif name == "copy_":
            self.steps.append({"do": "copy", "to": self.view(metas[0]), "source": self.view(metas[1])})
        elif name in FILLS or name in FULLS:
            value = (
                FILLS[name]
                if name in FILLS
                else _number(metas[FULLS[name]] if len(metas) > FULLS[name] else named["fill_value"])
            )
            self.steps.append({"do": "fill", "view": self.view(result), "value": number_said(value)})
        if name.endswith("_") and isinstance(args[0], Bare) and not is_view:
            return args[0]
        return _pytree.tree_map(lambda value: Bare(value) if isinstance(value, torch.Tensor) else value, result)

    def forget_values_of_weights(self) -> None:
        """Leave out what `__init__` filled weights with: they are Model's."""
        weights = {number for number, buffer in enumerate(self.buffers) if buffer["source"]}
        self.steps = [step for step in self.steps if _written(step) not in weights]

    def launch(self, kernel: str, grid: Any, arguments: dict[str, Any], options: dict[str, int]) -> None:
        if len(self.steps) > 4 * MAX_LAUNCHES:
            raise OutsideError("more steps than a call may have")
        sizes = [int(size) for size in (grid if isinstance(grid, tuple | list) else (grid,))]
        said = {name: self._argument(value) for name, value in arguments.items()}
        grid_of_three = [*sizes, 1, 1, 1][:3] if len(sizes) <= 3 else sizes
        self.steps.append({"do": "launch", "kernel": kernel, "grid": grid_of_three, "arguments": said, "options": options})

    def _argument(self, value: Any) -> Any:
        if isinstance(value, triton.language.constexpr):
            value = value.value
        if isinstance(value, Bare):
            return self.view(value.meta)
        if isinstance(value, triton.language.dtype):
            return {"type": _TYPE_NAMES.get(value.name, value.name)}
        if isinstance(value, torch.dtype):
            return {"type": str(value).removeprefix("torch.")}
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | float):
            return number_said(int(value) if isinstance(value, int) else float(value))
        raise OutsideError(f"a kernel is given a {type(value).__name__}")


_TYPE_NAMES: Final = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}


class Traced:
    """Stands for a kernel in the answer's module: what is launched is written down."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.fn = function
        self.__name__ = as_written(function.__name__)
        said = inspect.signature(function)
        self._signature = said.replace(parameters=[one.replace(name=as_written(one.name)) for one in said.parameters.values()])
        self._settings: dict[str, Any] = {}
        self._computed: dict[str, Callable[[dict[str, Any]], Any]] = {}

    def configured(self, settings: dict[str, Any], computed: dict[str, Callable[[dict[str, Any]], Any]]) -> Traced:
        self._settings = {**settings, **self._settings}
        self._computed = {**computed, **self._computed}
        return self

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **kwargs: self.run(*args, grid=grid, **kwargs)

    def run(self, *args: Any, grid: Any, **kwargs: Any) -> None:
        kwargs.pop("warmup", None)
        given = {**self._settings, **{as_written(name): value for name, value in kwargs.items()}}
        options = {name: int(given[name]) for name in OPTIONS if name in given and name not in self._signature.parameters}
        named = {name: value for name, value in given.items() if name in self._signature.parameters}
        bound = self._signature.bind_partial(*args, **named)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for name, compute in self._computed.items():
            arguments[name] = compute(arguments)
        missing = [name for name in self._signature.parameters if name not in arguments]
        if missing:
            raise TypeError(f"the kernel {self.__name__} is launched without {missing[0]}")
        Recorder.current.launch(self.__name__, grid(arguments) if callable(grid) else grid, arguments, options)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise OutsideError(f"the kernel {self.__name__} is called without a grid")


def trace(code: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The plans of the calls: `{"plans": […]}`, or `{"problem": why there are none}`.

    A call has `init` (arguments of `ModelNew`), `inputs` and `weights`: lists of `[name, dtype, shape]`, and inputs that are no
    tensors as `[name, "value", value]`.
    """
    try:
        with _recording():
            Recorder()  # what a module makes before it is called has no values either: memory says where things lie
            with torch.no_grad(), _Everywhere():  # type: ignore[no-untyped-call]
                module = module_of(code)
            return {"plans": [_plan_of(module, call) for call in calls]}
    except OutsideError as error:
        return {"problem": without_addresses(str(error))[:300]}
    except BaseException as error:  # noqa: BLE001 - whatever the answer raises is its own failure
        return {"problem": f"{type(error).__name__}: {_text(error)}"}


def _plan_of(module: types.ModuleType, call: dict[str, Any]) -> dict[str, Any]:
    recorder = Recorder()
    with torch.no_grad(), _Everywhere():  # type: ignore[no-untyped-call]
        model = module.ModelNew(*call["init"])
        if isinstance(model, torch.nn.Module):
            _name_weights(recorder, model, {name: (dtype, shape) for name, dtype, shape in call["weights"]})
        elif call["weights"]:
            raise OutsideError("ModelNew is no torch.nn.Module, so it cannot be given the weights")
        recorder.making = False
        recorder.forget_values_of_weights()
        inputs = [_input(recorder, *one) for one in call["inputs"]]
        result = model(*inputs)
        results = list(result) if isinstance(result, tuple | list) else [result]
        if not results or not all(isinstance(one, Bare) for one in results):
            raise OutsideError("forward returns something else than tensors")
        outputs = [recorder.view(one.meta) for one in results]
    return {"buffers": recorder.buffers, "steps": recorder.steps, "outputs": outputs}


def _name_weights(recorder: Recorder, model: torch.nn.Module, wanted: dict[str, tuple[str, list[int]]]) -> None:
    own = model.state_dict()
    for name, value in own.items():
        if name not in wanted:
            theirs = ", ".join(sorted(wanted)[:8]) or "none"
            raise OutsideError(f"ModelNew has a weight {name[:60]!r} that Model has not; Model's are {theirs}")
        dtype, shape = wanted[name]
        if str(value.dtype) != f"torch.{dtype}" or list(value.shape) != shape or not value.is_contiguous():
            raise OutsideError(f"the weight {name[:60]} of ModelNew has another shape or type than Model's")
        recorder.buffers[recorder.buffer_of(value.meta)]["source"] = f"weight:{name}"


def _input(recorder: Recorder, name: str, kind: str, detail: Any) -> Any:
    if kind == "value":
        return detail
    bare: Bare = torch.empty(detail, dtype=getattr(torch, kind))  # type: ignore[assignment]  # the mode makes it
    recorder.buffers[recorder.buffer_of(bare.meta)]["source"] = f"input:{name}"
    return bare


@contextmanager
def _recording() -> Iterator[None]:
    """What records in the place of what computes, until the end of the block."""
    places: list[tuple[Any, str, Any]] = [
        (triton, "jit", _jit),
        (triton, "cdiv", lambda x, y: -(-x // y)),
        (triton, "next_power_of_2", lambda n: 1 << (n - 1).bit_length() if n > 0 else 0),
        (triton, "autotune", lambda configs, *_, **__: lambda kernel: kernel.configured(_settings_of(configs), {})),
        (triton, "heuristics", lambda values: lambda kernel: kernel.configured({}, dict(values))),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "synchronize", lambda *_: None),
        (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        (torch.cuda, "get_device_properties", lambda *_: types.SimpleNamespace(multi_processor_count=132, major=9, minor=0)),
        (torch.cuda, "device", _Nothing),
        (torch.nn.Module, "cuda", lambda self, *_: self),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


class _Nothing:
    def __init__(self, *_: Any) -> None:
        return

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


def _jit(function: Any = None, **_: Any) -> Any:
    return Traced if function is None else Traced(function)


def _settings_of(configs: Any) -> dict[str, Any]:
    """Of an autotuned kernel the first configuration counts: every machine takes the same."""
    first = configs[0]
    options = {name: getattr(first, name) for name in OPTIONS if getattr(first, name, None) is not None}
    return {**options, **first.kwargs}


def _as_meta(value: Any, operation: str) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type != "meta":
        if value.dim() == 0 and operation in ("fill_", "full", "full_like"):
            return value
        raise OutsideError("a tensor with values (torch.tensor) outside of a kernel")
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, bool | int | float):
        return float(value) if isinstance(value, float) else int(value)
    raise OutsideError("a fill with something else than a number")


def _written(step: dict[str, Any]) -> int | None:
    """The buffer that a fill or a copy writes to."""
    view = step.get("view") or step.get("to")
    return int(view["buffer"]) if view else None


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device | str)


def _text(error: BaseException) -> str:
    try:
        return without_addresses(str(error))[:200]
    except BaseException:  # noqa: BLE001 - an exception whose text raises
        return ""
