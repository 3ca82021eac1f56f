"""What the confined processes of a judgement do: one message in, one reply out, each in a process of its own.

`read` and `compile` belong to a zygote without the interpreter, `shapes`, `trace`, `draw` and `run` to one with it. Only
`trace` runs an answer's Python, and it alone is never given a value; what it says is checked by whoever uses it. A reply
is `{"passed": True, "out": JSON}`, as the pool carries it.
"""

from __future__ import annotations

import base64
import json
import os
import warnings
from typing import Any

import numpy as np
import torch

from grail_envs.kernels import compiling, interpreter, reference, tracing
from grail_envs.kernels.agreement import AccessError
from grail_envs.kernels.answer_module import hide_machine
from grail_envs.kernels.plan import Plan, PlanError, without_addresses
from grail_envs.kernels.reading import read_answer
from grail_envs.kernels.running import POISONS, Kernels, Memory
from grail_envs.kernels.warm import warm_up
from grail_envs.sandbox.steady import Steady

warnings.simplefilter("ignore")
np.seterr(all="ignore")
torch.set_num_threads(1)
if os.environ.get("TRITON_INTERPRET") == "1":
    interpreter.install()
warm_up()
_STEADY = Steady()


def grade(message: dict[str, Any]) -> dict[str, Any]:
    """Do what the message asks for."""
    stages = {"read": _read, "shapes": _draw, "trace": _trace, "draw": _draw, "compile": _compile, "run": _run}
    stage = stages[message["stage"]]
    return {"passed": True, "stage": message["stage"], "detail": "", "out": json.dumps(stage(message))}


def _read(message: dict[str, Any]) -> dict[str, Any]:
    reading = read_answer(message["code"])
    return {"problem": reading.problem, "module": reading.module}


def _draw(message: dict[str, Any]) -> dict[str, Any]:
    """Shapes alone, or values too."""
    make = reference.shapes if message["stage"] == "shapes" else reference.draw
    try:
        return {"draws": [make(task) for task in message["tasks"]]}
    except reference.TooLargeError as error:
        return {"problem": str(error), "too_large": True}
    except Exception as error:  # noqa: BLE001 - a task of a data set that does not run
        return {"problem": f"{type(error).__name__}: {error}"[:300]}


def _trace(message: dict[str, Any]) -> dict[str, Any]:
    _STEADY.put_in_place(0)
    hide_machine()
    return tracing.trace(message["code"], message["calls"])


def _compile(message: dict[str, Any]) -> dict[str, Any]:
    try:
        kernels = Kernels(read_answer(message["code"]).module)
        launches = [launch for said in message["plans"] for launch in Plan.read(said).launches]
        found = compiling.compile_launches(kernels, launches)
        return {"ptx": found if message.get("keep") else {name: len(text) for name, text in found.items()}}
    except PlanError as error:
        return {"problem": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever the compiler has to say of a kernel
        return {"problem": f"{type(error).__name__}: {_last_word(error)}"}


def _run(message: dict[str, Any]) -> dict[str, Any]:
    """Every run: a plan on its draw, with this poison, in this order of programs and at this place."""
    try:
        kernels = interpreter.kernels_of(read_answer(message["code"]).module)
        return {"runs": [_one_run(run, kernels) for run in message["runs"]]}
    except Exception as error:  # noqa: BLE001 - whatever a kernel raises
        told: BaseException | None = error
        while told is not None:  # the interpreter hands on what it met as a cause
            if isinstance(told, PlanError | AccessError):
                return {"problem": str(told)}
            told = told.__cause__
        return {"problem": f"{type(error).__name__}: {_last_word(error)}"}


def _one_run(run: dict[str, Any], kernels: Kernels) -> list[list[Any]]:
    """The outputs, as `[type, shape, base64, whether a kernel wrote to it, whether all of it was written]`."""
    plan = Plan.read(run["plan"])
    contents = {name: base64.b64decode(raw) for name, raw in run["contents"].items()}
    memory = Memory(plan, contents, "cpu", POISONS[run["poison"]], run["place"])
    watch = interpreter.Watch(memory, reverse=run["reverse"])
    watch.carry_out(plan, kernels)
    outputs = []
    for view in plan.outputs:
        by_kernel, all_written = watch.writers(view)
        raw = base64.b64encode(memory.bytes_of(view)).decode()
        outputs.append([view.dtype, list(view.shape), raw, by_kernel, all_written])
    return outputs


def _last_word(error: BaseException) -> str:
    text = without_addresses(str(error)).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip(" ^")]  # a compiler points at the place with ^
    told = lines[-1] if lines else ""
    cause = without_addresses(repr(error.__cause__)) if error.__cause__ is not None else ""
    return (cause if cause and "Error" not in told else told)[:200]
