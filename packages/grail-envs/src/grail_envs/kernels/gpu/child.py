"""A process that runs kernels on one device and times them: one job after the other, its context kept.

It is given the module of kernels that `reading` makes, never an answer's Python; the task's own module runs in another
process of the same kind, so that no kernel finds a right output in its memory. An error that leaves a CUDA context unusable
is told as `sticky`: whoever asked ends the process then.
"""

from __future__ import annotations

import base64
import sys
from functools import partial
from typing import Any, Final

from grail_core.child_process import boot, frames
from grail_core.child_process.frames import Payload
from grail_envs.kernels.gpu.frames import ERRORS, Kind

STICKY_WORDS: Final = (
    "CUDA error",
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "misaligned address",
)


def main() -> None:
    """Serve until the parent has gone; the device is the second argument of this process."""
    device = sys.argv[2]
    boot.serve(lambda: _prepared(device), kinds=Kind, ready=Kind.READY, fault=Kind.FAULT, names=ERRORS)


def _prepared(device: str) -> boot.Answers[Kind]:
    import torch

    from grail_envs.kernels import interpreter

    if device == "cpu":
        interpreter.install()
    else:
        torch.zeros(1, device=device)  # the context is made here, once
    return {
        Kind.KERNELS: (Kind.DONE, lambda payload: _told(payload, lambda message: run_kernels(message, device), device)),
        Kind.REFERENCE: (Kind.DONE, lambda payload: _told(payload, lambda message: run_reference(message, device), device)),
    }


def _told(payload: memoryview, work: Any, device: str) -> Payload:
    message, _ = frames.unpack(payload)
    try:
        found = work(message)
        _wait_for(device)
        return frames.pack(found)
    except Exception as error:  # noqa: BLE001 - whatever a kernel raises is told; whether the context lives decides what follows
        text = f"{type(error).__name__}: {error}"[:300]
        return frames.pack({"problem": text, "sticky": any(word in text for word in STICKY_WORDS) or _is_broken(device)})


def run_kernels(message: dict[str, Any], device: str) -> dict[str, Any]:
    """Outputs of every draw, and the time of the first: `{"outputs": [[[dtype, shape, base64]…]…], "ms": …}`."""
    from grail_envs.kernels import interpreter
    from grail_envs.kernels.gpu.timing import median_ms
    from grail_envs.kernels.plan import Plan
    from grail_envs.kernels.running import POISONS, Kernels, Memory, carry_out

    kernels = Kernels(message["module"], message["name"])
    outputs, milliseconds = [], 0.0
    for number, (said, raw) in enumerate(zip(message["plans"], message["contents"], strict=True)):
        plan = Plan.read(said)
        memory = Memory(plan, {name: base64.b64decode(text) for name, text in raw.items()}, device, POISONS[0])
        if device == "cpu":
            interpreter.Watch(memory, reverse=False)
        carry_out(plan, kernels, memory)
        _wait_for(device)
        outputs.append(
            [[view.dtype, list(view.shape), base64.b64encode(memory.bytes_of(view)).decode()] for view in plan.outputs]
        )
        if number == 0:
            milliseconds = median_ms(partial(carry_out, plan, kernels, memory), device, repetitions=message["repetitions"])
    return {"outputs": outputs, "ms": milliseconds}


def run_reference(message: dict[str, Any], device: str) -> dict[str, Any]:
    """The time of the task's own module on its first draw: `{"ms": …}`."""
    import types

    import torch

    from grail_envs.kernels.gpu.timing import median_ms

    module = types.ModuleType("task")
    exec(compile(message["source"], "<task>", "exec", dont_inherit=True), module.__dict__)  # of a data set, as in `reference`
    with torch.no_grad():
        model = module.Model(*module.get_init_inputs()).to(device)
        inputs = [one.to(device) if isinstance(one, torch.Tensor) else one for one in module.get_inputs()]
        return {"ms": median_ms(lambda: model(*inputs), device, repetitions=message["repetitions"])}


def _wait_for(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def _is_broken(device: str) -> bool:
    """Whether the device's context takes no work any more."""
    import torch

    try:
        torch.zeros(1, device=device)
        _wait_for(device)
    except RuntimeError:
        return True
    return False
