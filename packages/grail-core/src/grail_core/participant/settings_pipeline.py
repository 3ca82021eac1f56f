"""What a miner's operator sets of generation and proofs: engine, devices, sizes.

Declarations alone. `grail_miner.layout` holds them against the devices of a machine; docs/miner.md tells what each changes.
Indices of GPUs count the visible devices, from 0 (`CUDA_VISIBLE_DEVICES`), for an engine's server too.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel

from grail_core.participant.settings_fields import MINER, MINING, FilePath, Number, Switch, WholeNumber, setting

BACKENDS = ("sglang", "vllm", "hf")
MAX_GPUS = 64
"""Of one machine: what indices are read up to. Which of them are there is looked up at start."""


def gpu_indices(text: str) -> tuple[int, ...]:
    """`0,2,3` as numbers; none of "".

    Raises:
        ValueError: it is no such list, or names a GPU twice.
    """
    if not text:
        return ()
    if not re.fullmatch(r"[0-9]{1,3}( *, *[0-9]{1,3})*", text):
        raise ValueError("it is no list of GPU indices")
    indices = tuple(int(part) for part in text.split(","))
    if max(indices) >= MAX_GPUS:
        raise ValueError(f"it names a GPU beyond the {MAX_GPUS} that are counted")
    if len(set(indices)) < len(indices):
        raise ValueError("it names a GPU twice")
    return indices


def _indices(value: str) -> str:
    return ",".join(map(str, gpu_indices(value)))


def _backend(value: str | None) -> str | None:
    if value is None or value in BACKENDS:
        return value
    from importlib.metadata import entry_points  # somebody else's wheel may add one: rarely, so it is rarely looked for

    if all(point.name != value for point in entry_points(group="grail.generators")):
        raise ValueError(f"it is not one of {', '.join(sorted(BACKENDS))}, and no wheel here adds an engine of this name")
    return value


def _url(value: str) -> str:
    """The address of a server, without a slash at its end. The value may hold a password, so no error repeats it."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("it is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("it is no URL of a server")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment or parts.path.strip("/"):
        raise ValueError("a server's URL has scheme, host and port alone")
    return value.rstrip("/")


GpuIndices = Annotated[str, AfterValidator(_indices)]
BackendName = Annotated[str | None, AfterValidator(_backend)]
ServerUrl = Annotated[str, AfterValidator(_url)]

_INDICES_WANTED = "GPU indices with commas between them (0,2,3)"
_URL_WANTED = "a server's address (http://127.0.0.1:30000)"


class PipelineSettings(BaseModel):
    """Every field's alias is its public name; see `settings.Settings`, of which this is a part."""

    miner_safety_blocks: WholeNumber = setting(
        "GRAIL_MINER_SAFETY_BLOCKS",
        MINING,
        MINER,
        "blocks before the deadline that belong to the upload",
        default=2,
        ge=0,
        le=20,
    )
    pipeline_backend: BackendName = setting(
        "GRAIL_PIPELINE_BACKEND",
        MINING,
        MINER,
        "what generates: a server of SGLang (`sglang`) or vLLM (`vllm`), or Transformers in process (`hf`)",
        default=None,
        shown="`sglang` where CUDA devices are visible, else `hf`",
        wanted=f"one of {', '.join(sorted(BACKENDS))}",
    )
    sglang_python: FilePath | None = setting(
        "GRAIL_SGLANG_PYTHON",
        MINING,
        MINER,
        "interpreter of the environment that SGLang is installed in; its server is started and looked after",
        default=None,
        shown="the miner's own, if SGLang is in it",
    )
    vllm_python: FilePath | None = setting(
        "GRAIL_VLLM_PYTHON",
        MINING,
        MINER,
        "interpreter of the environment that vLLM is installed in; its server is started and looked after",
        default=None,
        shown="the miner's own, if vLLM is in it",
    )
    sglang_url: ServerUrl = setting(
        "GRAIL_SGLANG_URL",
        MINING,
        MINER,
        "address of an SGLang server that somebody else runs; none is started then",
        default="",
        wanted=_URL_WANTED,
    )
    vllm_url: ServerUrl = setting(
        "GRAIL_VLLM_URL",
        MINING,
        MINER,
        "address of a vLLM server that somebody else runs; none is started then",
        default="",
        wanted=_URL_WANTED,
    )
    pipeline_vllm_gpu: WholeNumber = setting(
        "GRAIL_PIPELINE_VLLM_GPU",
        MINING,
        MINER,
        "first GPU that generates, whatever the engine",
        default=0,
        ge=0,
        le=MAX_GPUS - 1,
    )
    pipeline_vllm_tp: WholeNumber = setting(
        "GRAIL_PIPELINE_VLLM_TP",
        MINING,
        MINER,
        "GPUs in a row that generate together, from the first on (tensor parallel)",
        default=1,
        ge=1,
        le=MAX_GPUS,
    )
    pipeline_proof_gpu: WholeNumber = setting(
        "GRAIL_PIPELINE_PROOF_GPU",
        MINING,
        MINER,
        "GPU that proves; with `hf`, unless it is set, the one that generates",
        default=1,
        ge=0,
        le=MAX_GPUS - 1,
    )
    pipeline_proof_gpu_ids: GpuIndices = setting(
        "GRAIL_PIPELINE_PROOF_GPU_IDS",
        MINING,
        MINER,
        "GPUs that prove side by side, `2,3`; they take the place of `GRAIL_PIPELINE_PROOF_GPU`",
        default="",
        wanted=_INDICES_WANTED,
    )
    pipeline_proof_workers: WholeNumber = setting(
        "GRAIL_PIPELINE_PROOF_WORKERS",
        MINING,
        MINER,
        "proof workers on each device that proves",
        default=1,
        ge=1,
        le=32,
    )
    pipeline_proof_subprocess: Switch = setting(
        "GRAIL_PIPELINE_PROOF_SUBPROCESS",
        MINING,
        MINER,
        "`true`: a process for each proof worker, without keys, replaced when it dies; `false`: a thread",
        default=False,
    )
    pipeline_groups_per_batch: WholeNumber = setting(
        "GRAIL_PIPELINE_GROUPS_PER_BATCH",
        MINING,
        MINER,
        "groups of 16 rollouts handed to the engine at a time (`grail-miner run --batch`)",
        default=8,
        ge=1,
        le=256,
    )
    pipeline_max_model_len: WholeNumber = setting(
        "GRAIL_PIPELINE_MAX_MODEL_LEN",
        MINING,
        MINER,
        "tokens of prompt and completion that the engine's server has room for",
        default=12_288,
        ge=2,
        le=16_777_216,
    )
    pipeline_gpu_mem_util: Number = setting(
        "GRAIL_PIPELINE_GPU_MEM_UTIL",
        MINING,
        MINER,
        "share of each generating GPU's memory that the engine's server takes",
        default=0.90,
        ge=0.05,
        le=0.99,
    )
    pipeline_max_num_seqs: WholeNumber = setting(
        "GRAIL_PIPELINE_MAX_NUM_SEQS",
        MINING,
        MINER,
        "sequences that the engine's server decodes together",
        default=64,
        ge=1,
        le=65_536,
    )
    pipeline_max_concurrent: WholeNumber = setting(
        "GRAIL_PIPELINE_MAX_CONCURRENT",
        MINING,
        MINER,
        "requests in flight to the engine's server",
        default=48,
        ge=1,
        le=65_536,
    )
    pipeline_disable_cuda_graph: Switch = setting(
        "GRAIL_PIPELINE_DISABLE_CUDA_GRAPH",
        MINING,
        MINER,
        "`true`: the engine's server captures no CUDA graphs: less memory, a quicker start, slower decoding",
        default=False,
    )
    pipeline_deterministic: Switch = setting(
        "GRAIL_PIPELINE_DETERMINISTIC",
        MINING,
        MINER,
        "`true`: SGLang's own deterministic mode draws in place of our processor; `sglang` alone",
        default=False,
    )
    pipeline_proof_flash_attn: Switch = setting(
        "GRAIL_PIPELINE_PROOF_FLASH_ATTN",
        MINING,
        MINER,
        "`false` alone: proofs are made with the attention that validators check them with, SDPA",
        default=False,
    )
    pipeline_symlink_dir: FilePath | None = setting(
        "GRAIL_PIPELINE_SYMLINK_DIR",
        MINING,
        MINER,
        "folder for the links through which a server finds its weights, and for its logs",
        default=None,
        shown="in `GRAIL_STATE_DIR`",
    )
