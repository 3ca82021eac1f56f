"""How an engine is run: what a miner's settings say of it, before any of it is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Backend = Literal["sglang", "vllm", "hf"]


@dataclass(frozen=True)
class EngineOptions:
    """One engine. Either `url` (somebody else runs the server) or `python` (we do), for `sglang` and `vllm`.

    `numerics_class`: what the header will say that drew the tokens, where the engine cannot be asked.
    """

    backend: Backend
    url: str | None = None  # http://127.0.0.1:PORT
    python: Path | None = None  # interpreter of the engine's own environment
    gpus: tuple[int, ...] = ()  # indices into the visible devices, one per tensor-parallel rank; empty: the CPU
    max_model_len: int = 12_288  # tokens of prompt and completion
    memory_share: float = 0.90  # of a GPU's memory
    max_num_seqs: int = 64  # sequences decoded together
    max_concurrent: int = 48  # requests in flight
    cuda_graph: bool = True
    native_sampling: bool = False  # SGLang's deterministic mode where the policy allows, in place of our processor
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # float32 for conformance alone
    state_dir: Path | None = None  # logs of the server, and links to weights
