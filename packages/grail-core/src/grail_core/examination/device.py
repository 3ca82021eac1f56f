"""Whether the device of GRAIL_DEVICE is there. torch is imported only where it is not the processor."""

from __future__ import annotations

import os
from collections.abc import Iterator

from grail_core.errors import ConfigurationError, GrailError, MachineFaultError
from grail_core.examination.findings import MACHINE, Finding, broken, ok
from grail_core.participant.settings import Settings


def device(settings: Settings) -> Iterator[Finding]:
    """What the proof model runs on."""
    try:
        yield ok(MACHINE, "device", _there(settings.device))
    except GrailError as error:
        yield broken(MACHINE, "device", error)


def _there(name: str) -> str:
    """Raises ConfigurationError, MachineFaultError."""
    kind, _, number = name.partition(":")
    if kind == "cpu":
        return "the processor"
    import torch

    try:
        if kind == "mps":
            count = int(torch.backends.mps.is_available())
        else:
            count = torch.xpu.device_count() if kind == "xpu" else torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        hint = "see `nvidia-smi`; install a build of torch for this driver"
        raise MachineFaultError(f"torch cannot use the devices: {why}", where=f"GRAIL_DEVICE={name}", hint=hint) from error
    if int(number or 0) < count:
        return f"{name}, of {count} that are visible"
    seen = "" if os.environ.get("CUDA_VISIBLE_DEVICES") is None else "; CUDA_VISIBLE_DEVICES hides the others"
    raise ConfigurationError(
        f"there is no such device: torch sees {count} of {kind}{seen}",
        where=f"GRAIL_DEVICE={name}",
        hint="set GRAIL_DEVICE to cpu, or to a device that is there; they are counted from 0",
    )
