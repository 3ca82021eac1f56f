"""What this machine is: processor, memory, disks, Python, torch, CUDA devices. Looking changes nothing."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grail_core.errors import MachineFaultError
from grail_core.examination.findings import MACHINE, Finding, broken, not_asked, ok, warning
from grail_core.participant.compute import Minima

GIB = 1 << 30
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """A visible CUDA device."""

    index: int
    name: str
    memory: int  # bytes


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes."""

    cores: int  # that this process may use
    memory: int | None  # of the machine
    memory_free: int | None  # least of what the kernel and every control group leave
    torch: str
    cuda: str | None  # that torch was built for
    driver: str | None
    gpus: tuple[Gpu, ...]
    fault: str | None = None  # why torch cannot say what the devices are


def look() -> Machine:
    """Imports torch, and opens no CUDA context of its own."""
    import torch

    from grail_core.child_process.memory import available_bytes

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices: list[tuple[str, int]] = []
    fault = None
    try:
        for index in range(torch.cuda.device_count()):
            told = torch.cuda.get_device_properties(index)
            devices.append((told.name, told.total_memory))
    except (RuntimeError, AssertionError) as error:  # a driver and a build that do not go together, a device that is lost
        fault = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return Machine(
        cores=cores,
        memory=_physical_memory(),
        memory_free=available_bytes(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        driver=_driver(),
        gpus=tuple(Gpu(index, name, memory) for index, (name, memory) in enumerate(devices)),
        fault=fault,
    )


def software(machine: Machine) -> Iterator[Finding]:
    """Python, torch, and how torch and driver go together."""
    yield ok(MACHINE, "Python", f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}")
    built = f"built for CUDA {machine.cuda}" if machine.cuda else "built without CUDA"
    yield ok(MACHINE, "torch", f"{machine.torch}, {built}")
    if machine.driver and not machine.gpus:
        why = "hidden by CUDA_VISIBLE_DEVICES" if os.environ.get("CUDA_VISIBLE_DEVICES") is not None else "too old for it?"
        why, hint = (why, "") if machine.cuda else ("torch was built without CUDA", "pip install a CUDA build of torch")
        yield warning(MACHINE, "driver", f"NVIDIA {machine.driver}, and torch sees no device: {why}", hint)
    else:
        yield ok(MACHINE, "driver", f"NVIDIA {machine.driver}" if machine.driver else "no NVIDIA driver")
    if machine.fault is not None:
        hint = "see `nvidia-smi`; install a build of torch for this driver"
        yield broken(MACHINE, "GPUs", MachineFaultError(f"torch cannot use the devices: {machine.fault}", hint=hint))
        return
    for gpu in machine.gpus:
        yield ok(MACHINE, f"GPU {gpu.index}", f"{gpu.name}, {gpu.memory / GIB:.0f} GiB")
    if not machine.gpus:
        yield ok(MACHINE, "GPUs", "no CUDA device is visible")


def minima(machine: Machine, least: dict[str, float], what: str) -> Iterator[Finding]:
    """This machine against `compute.min.yaml`. `what`: the role, environment and model that the figures are for."""
    memory = None if machine.memory is None else machine.memory / GIB
    for name, kind, there, unit in (
        ("cores", "cpu_cores", float(machine.cores), ""),
        ("memory", "ram_gib", memory, " GiB"),
        ("GPU count", "gpu_count", float(len(machine.gpus)), ""),
    ):
        needed = least[kind]
        if there is None:
            yield not_asked(MACHINE, name, "this system does not say")
        elif there < needed:
            yield warning(MACHINE, name, f"{there:.4g}{unit}, and {what} needs {needed:.4g}{unit}", "compute.min.yaml says why")
        else:
            yield ok(MACHINE, name, f"{there:.4g}{unit} (at least {needed:.4g}{unit} for {what})")
    for gpu in machine.gpus:
        if gpu.memory / GIB < least["gpu_memory_gib"]:
            told = f"{gpu.memory / GIB:.4g} GiB, and {what} needs {least['gpu_memory_gib']:.4g} GiB on a generating GPU"
            yield warning(MACHINE, f"GPU {gpu.index} memory", told, "compute.min.yaml says why")
    yield not_asked(
        MACHINE,
        "bandwidth",
        f"it is not measured here; {what} needs {least['bandwidth_down_mbit']:.0f} Mbit/s down and"
        f" {least['bandwidth_up_mbit']:.0f} up",
    )


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _driver() -> str | None:
    try:
        found = re.search(r"Kernel Module[^\n]*?\s(\d[\d.]+)", _DRIVER.read_text(encoding="utf-8", errors="replace")[:4096])
    except OSError:
        return None
    return found[1] if found else "of a version that is not told"


def figures_for(minima_of: Minima, environment: str | None, parameters: int) -> tuple[dict[str, float], str]:
    """The miner's minima, and for what they are."""
    of = f" of {environment}" if environment else ""
    size = f"{parameters / 1e9:.2g} billion" if parameters >= 1e8 else f"{parameters / 1e6:.2g} million"
    model = f"a model of {size} parameters" if parameters else "a small model"
    return minima_of.least("miner", environment, parameters), f"a miner{of} with {model}"
