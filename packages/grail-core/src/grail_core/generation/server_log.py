"""What an inference server printed before it failed, and what that means for whoever runs it.

Engines say what was wrong somewhere in a traceback of a child of theirs; what is known is told by name, with what to try.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_LAST_BYTES: Final = 64 << 10

PORT_TAKEN: Final = "the port was taken"
OUT_OF_MEMORY: Final = "out of memory"

_CAUSES: Final = (
    (
        PORT_TAKEN,
        r"address already in use|errno 98\b|port \d+ is (?:already )?(?:in use|not available)",
        "start again: another port is chosen each time",
    ),
    (
        OUT_OF_MEMORY,
        r"out of memory|OutOfMemoryError|not enough memory|no available memory for the cache|std::bad_alloc"
        r"|cannot allocate memory|less than desired gpu memory utili[sz]ation|try increasing .?gpu_memory_utilization",
        "see what else is on the GPU (nvidia-smi) and lower GRAIL_PIPELINE_GPU_MEM_UTIL where something is; where nothing is, "
        "lower GRAIL_PIPELINE_MAX_NUM_SEQS or GRAIL_PIPELINE_MAX_MODEL_LEN, or use more GPUs (GRAIL_PIPELINE_VLLM_TP)",
    ),
    (
        "no GPU was found",
        r"no cuda gpus are available|no cuda-capable device|found no nvidia driver|nvml_?error",
        "check nvidia-smi, CUDA_VISIBLE_DEVICES and GRAIL_PIPELINE_VLLM_GPU, or set GRAIL_PIPELINE_BACKEND=hf",
    ),
    (
        "a GPU failed",
        r"cuda error|cuda driver error|device-side assert|nccl error|ncclUnhandled|uncorrectable ecc",
        "look at the system's log (dmesg) for Xid errors, and reset or leave out the GPU",
    ),
    (
        "it does not know one of its flags",
        r"unrecognized arguments|no such option|error: argument --",
        "install a version that this was tried with",
    ),
    (
        "one of its modules is missing",
        r"ModuleNotFoundError|No module named|cannot open shared object file",
        "install the engine anew in an environment of its own",
    ),
)
_KNOWN: Final = tuple((name, re.compile(pattern, re.IGNORECASE), hint) for name, pattern, hint in _CAUSES)


def tail(path: Path) -> str:
    """The end of a log and of the one before it, at most 64 KiB; "" where there is none."""
    text = b""
    for file in (path, Path(f"{path}.1")):
        try:
            with file.open("rb") as opened:
                opened.seek(max(0, os.fstat(opened.fileno()).st_size - (_LAST_BYTES - len(text))))
                text = opened.read() + text
        except OSError:
            continue  # not made yet, or not rotated
        if len(text) >= _LAST_BYTES:
            break
    return text.decode("utf-8", "replace")


def cause_of(text: str) -> tuple[str, str] | None:
    """What a log says was wrong, and what to try; None where it says nothing that is known."""
    for name, pattern, hint in _KNOWN:
        if pattern.search(text):
            return name, hint
    return None
