"""The closed list of numerics classes: what a miner may say about how it computes.

A class is dtype, attention, device class and engine. It decides which calibration applies; one whose honest drift exceeds twice
the best class's is not on the list. The list is part of the protocol version: a name is added by a release, never by a
participant. Which of them may prove, draw and validate says each network (`NetworkParameters`), and whether work of a class
without calibration is refused or judged by the coarse bounds alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from grail_core.model.policy_model import PolicyModel


@dataclass(frozen=True)
class NumericsClass:
    """One way of computing. Example: bf16 weights and activations, SDPA attention, CPU, Transformers."""

    dtype: str
    attention: str
    device: str
    engine: str

    @property
    def name(self) -> str:
        return f"{self.dtype}-{self.attention}-{self.device}-{self.engine}"


_ADMITTED = (
    NumericsClass("bf16", "sdpa", "cpu", "transformers"),
    NumericsClass("bf16", "eager", "cpu", "transformers"),
    NumericsClass("bf16", "sdpa", "cuda", "transformers"),
    NumericsClass("bf16", "eager", "cuda", "transformers"),
    NumericsClass("bf16", "flash", "cuda", "sglang"),
    NumericsClass("bf16", "flash", "cuda", "vllm"),
)

NUMERICS_CLASSES: Final = {numerics.name: numerics for numerics in _ADMITTED}
"""Every admitted class by its name, the text that stands in a window file's header."""

DEFAULT_CLASS: Final = _ADMITTED[0].name
"""bf16-sdpa-cpu-transformers: what a network on one machine without a GPU computes with."""


def class_name(*, attention: str, device: str, engine: str = "transformers", dtype: str = "bf16") -> str:
    """The name of a class on the list.

    Raises:
        ValueError: no such class is admitted.
    """
    name = NumericsClass(dtype, attention, device, engine).name
    if name not in NUMERICS_CLASSES:
        raise ValueError(f"no such numerics class: {name} (one of {', '.join(NUMERICS_CLASSES)})")
    return name


def numerics_class_of(model: PolicyModel) -> str:
    """The class of a model loaded in this process.

    Raises:
        ValueError: its dtype, attention or device has no admitted class.
    """
    dtype = "bf16" if str(model.dtype) == "torch.bfloat16" else str(model.dtype).removeprefix("torch.")
    return class_name(attention=model.attention, device=model.device.type, dtype=dtype)


_PARTS: Final = ", in parts of "


def class_in_parts(name: str, rows: int) -> str:
    """What evidence says of proof batches that memory did not hold: the class, and how many rows at once were the most."""
    return f"{name}{_PARTS}{rows}"


def class_and_parts(said: str) -> tuple[str, int | None]:
    """The class that evidence names, and the rows of its parts; None for whole proof batches."""
    name, _, rows = said.partition(_PARTS)
    return name, int(rows) if rows.isascii() and rows.isdigit() and len(rows) < 4 else None
