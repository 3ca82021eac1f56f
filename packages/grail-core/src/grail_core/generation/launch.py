"""Command line and environment of an inference server: from options, a folder and a port to what is started. Pure.

The server listens on loopback alone, behind a key that is made for each start and does not stand on the command line, which
others can read. Its environment is made of what decides how libraries compute; no wallet, no bucket's key and no
setting of ours is in it. Nothing is left to a model folder: seeds, sampling and lengths are given, and the plug-in that draws
the tokens (`plugin/`) is all that lies on PYTHONPATH. Flags are those of SGLang 0.5.23 and vLLM 0.32 and 0.33.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grail_core.errors import ConfigurationError
from grail_core.generation.base import ServedWeights
from grail_core.generation.options import EngineOptions
from grail_core.generation.plugin import FOLDER, ROUNDED_HEAD_ALLOWED, VLLM_PROCESSOR

HOST: Final = "127.0.0.1"
MODEL_NAME: Final = "grail"
"""What requests to vLLM call the model, whatever folder it was loaded from."""

_PASSED = frozenset(
    ["PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "HF_HOME", "XDG_CACHE_HOME", "CC", "CXX"]
)
_PASSED_PREFIXES = (
    *("OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "TORCH", "PYTORCH_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_"),
    *("GLOO_", "TRITON_", "FLASHINFER_", "VLLM_", "SGLANG_", "SGL_"),
)
_SECRET = re.compile("key|token|secret|passw|credential|mnemonic", re.IGNORECASE)
_ATTENTION: Final[dict[tuple[str, str], dict[str, str | None]]] = {
    ("sglang", "cuda"): {"flash": "fa3", "flashinfer": "flashinfer", "triton": "triton"},
    ("sglang", "cpu"): {"torchnative": "torch_native"},
    ("vllm", "cuda"): {"flash": "FLASH_ATTN", "flashinfer": "FLASHINFER", "triton": "TRITON_ATTN"},
    ("vllm", "cpu"): {"sdpa": None},  # it has one
}
"""(engine, device) → attention in a numerics class → the engine's own name of it."""
_SGLANG_SPARE = 2  # tokens
_CPU_TOKENS = 16_384  # in SGLang's cache on the CPU, at least


@dataclass(frozen=True)
class Launch:
    """What is started. `files` are written for it, by path, readable by this user alone."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    files: Mapping[Path, str]


@dataclass(frozen=True)
class Numerics:
    """What a numerics class says of how its engine is started.

    `attention`: the engine's own name, None where it chooses. `rounded_head`: the head rounds its products to bf16.
    """

    attention: str | None = None
    rounded_head: bool = False


def numerics_of(options: EngineOptions, numerics_class: str | None) -> Numerics:
    """What is started is what the header will name: attention is not left to an engine that chooses by the GPU it finds.

    Args:
        numerics_class: of this engine (`grail_core.proof.numerics`); another's, or none, leaves the choice to it.

    Raises:
        ConfigurationError: it names attention that this engine does not have.
    """
    parts = (numerics_class or "").split("-")
    if len(parts) not in (4, 5) or parts[3] != options.backend:
        return Numerics()
    names = _ATTENTION.get((options.backend, parts[2]), {})
    if parts[1] not in names:
        raise ConfigurationError(
            f"{options.backend} has no attention that {numerics_class} names",
            where="numerics class",
            hint=f"one of {', '.join(names) or 'another engine'}",
        )
    return Numerics(names[parts[1]], parts[4:] == ["bf16head"])


def launch(
    options: EngineOptions,
    weights: ServedWeights,
    port: int,
    *,
    api_key: str,
    scratch: Path,
    own: Mapping[str, str],
    numerics_class: str | None = None,
) -> Launch:
    """How this engine is started with these weights.

    Args:
        numerics_class: what the header will say that drew the tokens; see `numerics_of`.
        api_key: letters, digits and dashes, not a number; every request must carry it as a bearer token.
        scratch: an existing folder of this server's, for files that it reads when it starts.
        own: this process's environment.

    Raises:
        ConfigurationError: the options contradict each other or the visible devices.
    """
    numerics = numerics_of(options, numerics_class)
    around = environment(options, own) | ({ROUNDED_HEAD_ALLOWED: "1"} if numerics.rounded_head else {})
    if options.backend == "sglang":
        key_file = scratch / "server.yaml"
        command = _sglang(options, weights, port, key_file, numerics)
        return Launch(command, around, {key_file: f'api-key: "{api_key}"\n'})
    if options.backend == "vllm":
        return Launch(_vllm(options, weights, port, numerics), around | {"VLLM_API_KEY": api_key}, {})
    raise ConfigurationError(
        f"{options.backend} has no server",
        where="GRAIL_PIPELINE_BACKEND",
        hint="set it to sglang or vllm, or use hf in process",
    )


def interpreter(options: EngineOptions) -> str:
    """That the engine is installed in: its own environment, or ours where both share one."""
    return str(options.python) if options.python is not None else sys.executable


def environment(options: EngineOptions, own: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment, made of this process's `own`."""
    passed = {
        name: value
        for name, value in own.items()
        if (name in _PASSED or name.startswith(_PASSED_PREFIXES)) and not _SECRET.search(name)
    }
    fixed = {
        "PYTHONPATH": str(FOLDER),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": visible_devices(options.gpus, own.get("CUDA_VISIBLE_DEVICES")),
    }
    if options.backend == "sglang":
        fixed["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] = "1"  # by what `context_of` adds
    else:
        fixed |= {
            "VLLM_SERVER_DEV_MODE": "1",  # opens what weights are rolled by; `grail_engine_guard` asks for the key there
            "VLLM_USE_V2_MODEL_RUNNER": "0",  # the plug-in named on the command line is the one for this runner
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_DO_NOT_TRACK": "1",
        }
        if not options.gpus:
            passed = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"} | passed
    return passed | fixed


def visible_devices(gpus: tuple[int, ...], parent: str | None) -> str:
    """CUDA_VISIBLE_DEVICES of a child that shall see `gpus`, which are indices into what the parent sees ("" for none).

    Raises:
        ConfigurationError: the parent does not see so many, or one is named twice.
    """
    if len(set(gpus)) != len(gpus) or any(gpu < 0 for gpu in gpus):
        raise ConfigurationError(
            f"GPUs {', '.join(map(str, gpus))} are not different devices",
            where="GRAIL_PIPELINE_VLLM_GPU",
            hint="give each tensor-parallel rank a GPU of its own",
        )
    if parent is None:
        return ",".join(map(str, gpus))
    seen = [device.strip() for device in parent.split(",") if device.strip()]
    beyond = [gpu for gpu in gpus if gpu >= len(seen)]
    if beyond:
        raise ConfigurationError(
            f"GPU {beyond[0]} is beyond the {len(seen)} that CUDA_VISIBLE_DEVICES={parent!r} shows",
            where="GRAIL_PIPELINE_VLLM_GPU",
            hint="GPU settings are indices into the visible devices, from 0",
        )
    return ",".join(seen[gpu] for gpu in gpus)


def context_of(options: EngineOptions, weights: ServedWeights) -> int:
    """Tokens of prompt and completion that the engine is told to take: what is set, or all that the model has.

    SGLang takes one token less than it is told and keeps one for itself. The two more that it is therefore told are never
    drawn: no completion goes beyond the model's context.
    """
    spare = _SGLANG_SPARE if options.backend == "sglang" else 0
    return min(options.max_model_len, weights.context_length + spare)


def _sglang(options: EngineOptions, weights: ServedWeights, port: int, key_file: Path, numerics: Numerics) -> tuple[str, ...]:
    if options.native_sampling and not options.gpus:
        raise ConfigurationError(
            "SGLang's deterministic mode does not run on the CPU",
            where="GRAIL_PIPELINE_BACKEND",
            hint="leave native sampling off, so that our processor draws",
        )
    context = context_of(options, weights)
    command = [interpreter(options), "-m", "sglang.launch_server", "--config", str(key_file)]
    command += ["--model-path", str(weights.folder), "--served-model-name", MODEL_NAME, "--host", HOST, "--port", str(port)]
    command += ["--weight-version", weights.version, "--dtype", options.dtype, "--context-length", str(context)]
    command += ["--max-running-requests", str(options.max_num_seqs), "--random-seed", "0", "--sampling-defaults", "openai"]
    command += ["--skip-tokenizer-init"]  # ids in and out; and a tokenizer adds end tokens of its own
    command += ["--log-level-http", "warning"]
    if not numerics.rounded_head:
        command += ["--enable-fp32-lm-head"]
    if options.native_sampling:
        command += ["--enable-deterministic-inference"]
    else:
        command += ["--enable-custom-logit-processor"]
    if options.gpus:
        command += ["--tp-size", str(len(options.gpus)), "--mem-fraction-static", f"{options.memory_share:g}"]
        if numerics.attention is not None:
            command += ["--attention-backend", numerics.attention]
        if not options.cuda_graph:
            command += ["--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled"]
        return tuple(command)
    command += ["--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"]
    command += ["--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled"]
    command += ["--disable-overlap-schedule", "--skip-server-warmup"]
    command += ["--mem-fraction-static", "0.2", "--max-total-tokens", str(max(_CPU_TOKENS, 2 * context))]
    return tuple(command)


def _vllm(options: EngineOptions, weights: ServedWeights, port: int, numerics: Numerics) -> tuple[str, ...]:
    if options.native_sampling:
        raise ConfigurationError(
            "vLLM's own sampling is not the protocol's",
            where="GRAIL_PIPELINE_BACKEND",
            hint="leave native sampling off, so that our processor draws",
        )
    command = [interpreter(options), "-m", "vllm.entrypoints.cli.main", "serve", str(weights.folder)]
    command += ["--served-model-name", MODEL_NAME, "--host", HOST, "--port", str(port)]
    command += ["--middleware", "grail_engine_guard.EngineGuard", "--disable-uvicorn-access-log"]
    command += ["--dtype", options.dtype, "--max-model-len", str(context_of(options, weights))]
    command += ["--max-num-seqs", str(options.max_num_seqs), "--seed", "0", "--generation-config", "vllm"]
    command += ["--return-tokens-as-token-ids", "--enable-scale-out"]
    command += ["--logits-processors", VLLM_PROCESSOR]
    if not numerics.rounded_head:
        command += ["--hf-overrides", json.dumps({"head_dtype": "float32"})]
    if numerics.attention is not None:
        command += ["--attention-backend", numerics.attention]
    if options.gpus:
        command += ["--tensor-parallel-size", str(len(options.gpus))]
        command += ["--gpu-memory-utilization", f"{options.memory_share:g}", "--enable-sleep-mode"]
    if not options.gpus or not options.cuda_graph:
        command += ["--enforce-eager"]
    return tuple(command)
