"""Compile the kernels of an answer for a GPU that is not there: Triton to PTX for sm_90, in this very process.

Triton's compiler is a library, so nothing is executed and no file is written: the last stage, which hands the PTX to the
vendor's assembler, is left out. What a launch needs of shared memory is held to what an H100 has. Needs a process in
which TRITON_INTERPRET is not set, and no GPU.
"""

from __future__ import annotations

from typing import Any, Final

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend

from grail_envs.kernels.plan import ITEM_BYTES, Kind, Launch, PlanError, View
from grail_envs.kernels.running import Kernels

TARGET: Final = GPUTarget("cuda", 90, 32)
PTX_VERSION: Final = 83
MAX_SHARED_BYTES: Final = 232_448
"""Of an H100, for one block."""
MAX_VARIANTS: Final = 32
ALIGNED: Final = 16
"""What a launch tells the compiler of a pointer or a number: that it is a multiple of this."""
_TYPES: Final = {
    "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64", "int8": "i8", "int16": "i16", "int32": "i32",
    "int64": "i64", "uint8": "u8", "bool": "i1",
}  # fmt: skip


def compile_launches(kernels: Kernels, launches: list[Launch]) -> dict[str, str]:
    """The PTX of every variant of a kernel that is launched, by the kernel's name and the variant's number.

    Raises:
        PlanError: more variants than an answer may have.
        Exception: whatever the compiler raises.
    """
    variants: dict[tuple[Any, ...], Launch] = {}
    for launch in launches:
        signature, constants = _signature(kernels, launch)
        aligned = tuple(_aligned(launch, signature))
        key = (launch.kernel, tuple(signature.items()), repr(constants), tuple(launch.options.items()), aligned)
        variants.setdefault(key, launch)
    if len(variants) > MAX_VARIANTS:
        raise PlanError(f"it launches more than {MAX_VARIANTS} variants of its kernels")
    return {f"{launch.kernel}.{number}": _ptx(kernels, launch) for number, launch in enumerate(variants.values())}


def _signature(kernels: Kernels, launch: Launch) -> tuple[dict[str, str], dict[str, Any]]:
    kernel = kernels.get(launch.kernel)
    constant = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for name in kernels.parameters(launch.kernel):
        if name not in launch.arguments:
            raise PlanError(f"{launch.kernel[:60]} is launched without {name[:60]}")
        value = launch.arguments[name]
        if name in constant or value is None or (type(value) is int and value == 1):  # as a launch does
            signature[name] = "constexpr"
            constants[name] = getattr(triton.language, value.name) if isinstance(value, Kind) else value
        else:
            signature[name] = _type_of(value)
    return signature, constants


def _aligned(launch: Launch, signature: dict[str, str]) -> list[str]:
    """The arguments of which a launch tells the compiler that they are multiples of 16."""
    found = []
    for name, kind in signature.items():
        value = launch.arguments[name]
        if isinstance(value, View):
            is_multiple = value.offset * ITEM_BYTES[value.dtype] % ALIGNED == 0
        else:
            is_multiple = type(value) is int and value % ALIGNED == 0
        found += [name] if is_multiple and kind != "constexpr" else []
    return found


def _type_of(value: Any) -> str:
    if isinstance(value, View):
        return "*" + _TYPES[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    if isinstance(value, float):
        return "fp32"
    raise PlanError("an argument that only a constexpr can be")


def _ptx(kernels: Kernels, launch: Launch) -> str:
    signature, constants = _signature(kernels, launch)
    places = list(signature)
    hints = {(places.index(name),): [["tt.divisibility", ALIGNED]] for name in _aligned(launch, signature)}
    source = ASTSource(fn=kernels.get(launch.kernel), signature=signature, constexprs=constants, attrs=hints)
    backend = make_backend(TARGET)
    options = backend.parse_options({"enable_fp_fusion": False, "ptx_version": PTX_VERSION, **launch.options})
    context = triton._C.libtriton.ir.context()
    triton._C.libtriton.ir.load_dialects(context)
    backend.load_dialects(context)
    metadata: dict[str, Any] = {"target": TARGET, **options.__dict__}
    module = source.make_ir(TARGET, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    for name, stage in stages.items():
        module = stage(module, metadata)
        if name == "ptx":
            break
    if metadata.get("shared", 0) > MAX_SHARED_BYTES:
        raise PlanError(
            f"{launch.kernel[:60]} needs {metadata['shared']} bytes of shared memory, a block has {MAX_SHARED_BYTES}"
        )
    return str(module)
