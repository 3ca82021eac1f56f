"""The closed list of numerics classes: what a miner may say about how it computes.

A class is dtype, attention, device class, engine, and whether the head rounds its products. It decides which calibration
applies; one whose honest drift exceeds twice the best class's is not on the list. The list is part of the protocol version: a
name is added by a release, never by a participant. Which of them may prove, draw and validate says each network
(`NetworkParameters`), and whether work of a class without calibration is refused or judged by the coarse bounds alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from grail_core.model.policy_model import PolicyModel


@dataclass(frozen=True)
class NumericsClass:
    """One way of computing. Example: bf16 weights and activations, SDPA attention, CPU, Transformers.

    `head`: what the products of the last hidden state with the head are kept in. Section 4 asks for float32; an engine that
    rounds them to bf16 (by up to 1 part in 512) draws other tokens at near ties, which is a class of its own.
    """

    dtype: str
    attention: str
    device: str
    engine: str
    head: Literal["fp32", "bf16"] = "fp32"

    @property
    def name(self) -> str:
        return f"{self.dtype}-{self.attention}-{self.device}-{self.engine}{_ROUNDED if self.head == 'bf16' else ''}"


_ROUNDED: Final = "-bf16head"
_HEADS: Final[tuple[Literal["fp32", "bf16"], ...]] = ("fp32", "bf16")

_ENGINES: Final = {
    ("sglang", "cuda"): {"fa3": "flash", "fa4": "flash", "flashinfer": "flashinfer", "triton": "triton"},
    ("sglang", "cpu"): {"torch_native": "torchnative"},
    ("vllm", "cuda"): {"flash_attn": "flash", "flashinfer": "flashinfer", "triton_attn": "triton"},
    ("vllm", "cpu"): {"cpu_attn": "sdpa"},  # one kernel, its own: scaled dot products in blocks
}
"""(engine, device) → its name of an attention back-end → ours. What is not here computes in a way that nobody has looked at."""

_READ: Final = {"sglang": ((0, 5, 23), (0, 6)), "vllm": ((0, 32), (0, 34))}
"""Versions whose head and attention were read, from the first to before the second."""

_INVARIANT: Final = {"sglang": {"fa3", "fa4", "flashinfer", "triton"}, "vllm": {"flash_attn", "triton_attn"}}
"""Attention that each engine has for its deterministic mode, on CUDA alone."""


_ADMITTED = (
    NumericsClass("bf16", "sdpa", "cpu", "transformers"),
    NumericsClass("bf16", "eager", "cpu", "transformers"),
    NumericsClass("bf16", "sdpa", "cuda", "transformers"),
    NumericsClass("bf16", "eager", "cuda", "transformers"),
    *(
        NumericsClass("bf16", attention, device, engine, head)
        for (engine, device), known in _ENGINES.items()
        for attention in dict.fromkeys(known.values())
        for head in _HEADS
    ),
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


MOST_EAGER_TOKENS: Final = 1024
"""Eager attention holds every head's weight of every pair of tokens: 16 rows of so many take gigabytes, of ten times as many a
hundred times that. Whoever names it must not choose what a validator needs."""


def measuring_class(proof_class: str, own: str, longest: int = 0) -> str:
    """The class in which a validator of class `own` measures work of a proof class: its own, with the miner's attention where
    it has that kind. Half of what honest work of another attention would differ by is not there then.

    Args:
        longest: tokens of the longest row measured of the file. Beyond MOST_EAGER_TOKENS everybody measures with SDPA.
    """
    mine, theirs = NUMERICS_CLASSES[own], NUMERICS_CLASSES.get(proof_class)
    if mine.attention not in ("sdpa", "eager"):
        return own
    attention = theirs.attention if theirs is not None and theirs.attention in ("sdpa", "eager") else mine.attention
    return replace(mine, attention="sdpa" if longest > MOST_EAGER_TOKENS else attention).name


def engine_class(
    *,
    engine: str,
    version: str,
    attention: str,
    device: str,
    head: Literal["fp32", "bf16"],
    deterministic: bool = False,
    dtype: str = "bfloat16",
) -> str:
    """The class that an engine draws tokens in, from what it was started with.

    Its deterministic mode is no class of its own: it fixes how sums are split, which otherwise follows the batch, and so does
    some of what the class may do at any time.

    Args:
        engine: "sglang" or "vllm". version: as its package says, "0.5.23", "0.32.0+cpu".
        attention: the engine's own name, any case: "fa3", "FLASH_ATTN". device: "cuda", "cuda:1", "cpu".
        head: "fp32" where the engine was told to keep the head's products in float32, else "bf16".
        dtype: of weights and activations, as the engine calls it.

    Raises:
        ValueError: there is no class for it; the text says which of these is not known, and what is.
    """
    kind, backend = device.partition(":")[0], attention.lower()
    if (engine, kind) not in _ENGINES:
        raise ValueError(f"no numerics class for {engine} on {kind} (known: {', '.join(f'{e} on {d}' for e, d in _ENGINES)})")
    release = re.match(r"\d+(?:\.\d+)*", version)
    first, before = _READ[engine]
    if release is None or not first <= tuple(map(int, release[0].split("."))) < before:
        seen = f"versions from {_dotted(first)} to before {_dotted(before)} were looked at"
        raise ValueError(f"no numerics class for {engine} {version}: {seen}")
    known = _ENGINES[engine, kind]
    if backend not in known:
        raise ValueError(f"no numerics class for attention {attention} of {engine} on {kind} (known: {', '.join(known)})")
    if deterministic and (kind != "cuda" or backend not in _INVARIANT[engine]):
        offered = f"on cuda with {', '.join(sorted(_INVARIANT[engine]))}"
        raise ValueError(f"{engine} has no deterministic mode with attention {attention} on {kind} ({offered})")
    if dtype not in ("bfloat16", "bf16"):
        raise ValueError(f"no numerics class for {dtype}: networks compute in bfloat16")
    return NumericsClass("bf16", known[backend], kind, engine, head).name


def rounds_head(name: str) -> bool:
    """Whether a class is one whose head rounds its products to bf16."""
    return name.endswith(_ROUNDED)


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


_PARTS: Final = ", in parts of "


def class_in_parts(name: str, rows: int) -> str:
    """What evidence says of proof batches that memory did not hold: the class, and how many rows at once were the most."""
    return f"{name}{_PARTS}{rows}"


def class_and_parts(said: str) -> tuple[str, int | None]:
    """The class that evidence names, and the rows of its parts; None for whole proof batches."""
    name, _, rows = said.partition(_PARTS)
    return name, int(rows) if rows.isascii() and rows.isdigit() and len(rows) < 4 else None
