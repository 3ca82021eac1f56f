"""The engines' command lines, as far as the double follows them, and what they and the model's folder decide.

Flags are the engines' own names; one that is not here is refused as argparse refuses it. Flags that decide how fast a real
engine computes are taken and have no effect.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tooling.testing.engine_double.setup import EngineSetup, Flavour

_SGLANG_VALUES = (
    "tokenizer-path", "device", "dtype", "load-format", "mem-fraction-static", "max-total-tokens", "max-queued-requests",
    "chunked-prefill-size", "schedule-policy", "schedule-conservativeness", "attention-backend", "sampling-backend",
    "cuda-graph-backend-decode", "cuda-graph-backend-prefill", "base-gpu-id", "gpu-id-step", "random-seed",
    "watchdog-timeout", "log-level", "log-level-http", "sampling-defaults", "admin-api-key", "config", "stream-interval",
    "nccl-port", "dist-init-addr", "preferred-sampling-params", "kv-cache-dtype", "download-dir",
)  # fmt: skip
_SGLANG_SWITCHES = (
    "skip-server-warmup", "skip-tokenizer-init", "enable-custom-logit-processor", "enable-deterministic-inference",
    "enable-fp32-lm-head", "disable-overlap-schedule", "disable-cuda-graph", "disable-radix-cache", "disable-custom-all-reduce",
    "enable-memory-saver", "enable-metrics", "log-requests", "trust-remote-code", "allow-auto-truncate",
)  # fmt: skip
_VLLM_VALUES = (
    "dtype", "gpu-memory-utilization", "seed", "generation-config", "override-generation-config", "hf-overrides", "load-format",
    "logprobs-mode", "max-logprobs", "max-num-batched-tokens", "tokenizer", "kv-cache-dtype", "block-size", "middleware",
    "worker-extension-cls", "distributed-executor-backend", "weight-transfer-config", "uvicorn-log-level", "compilation-config",
    "attention-backend",
)  # fmt: skip
_VLLM_SWITCHES = (
    "enforce-eager", "return-tokens-as-token-ids", "use-fp64-gumbel", "enable-scale-out", "enable-sleep-mode", "tokens-only",
    "skip-tokenizer-init", "disable-uvicorn-access-log", "disable-log-stats", "trust-remote-code", "enable-prefix-caching",
    "no-enable-prefix-caching", "enable-log-requests", "no-enable-log-requests", "async-scheduling", "no-async-scheduling",
    "enable-chunked-prefill", "no-enable-chunked-prefill",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What the interfaces need to know beside the engine.

    `name`: what requests call the model. `end_tokens`: ids that end a row unless a request ignores them. `folder_defaults`:
    what generation_config.json says of sampling, where it applies. `without_text`: answers have no text at all.
    """

    engine: EngineSetup
    name: str
    host: str = "127.0.0.1"
    port: int = 0
    keys: tuple[str, ...] = ()
    end_tokens: frozenset[int] = frozenset()
    folder_defaults: Mapping[str, Any] = field(default_factory=dict)
    without_text: bool = False
    development: bool = True  # vLLM's endpoints of VLLM_SERVER_DEV_MODE
    guards_everything: bool = False  # a middleware asks for the key where vLLM itself does not
    scale_out: bool = False
    sleep_mode: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)

    def text(self, tokens: Sequence[int]) -> str:
        """Not doubled: a client that reads text instead of ids finds none."""
        return ""


def parse(flavour: Flavour, arguments: Sequence[str], environment: Mapping[str, str]) -> Setting:
    """A setting from the engine's own flags and environment. Ends the process as argparse does where they are wrong."""
    return (_sglang if flavour == "sglang" else _vllm)(arguments, environment)


def _parser(name: str, values: Sequence[str], switches: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(name, allow_abbrev=False)
    for value in values:
        parser.add_argument(f"--{value}")
    for switch in switches:
        parser.add_argument(f"--{switch}", action="store_true")
    return parser


def _sglang(arguments: Sequence[str], environment: Mapping[str, str]) -> Setting:
    parser = _parser("sglang.launch_server", _SGLANG_VALUES, _SGLANG_SWITCHES)
    parser.add_argument("--model-path", "--model", required=True, type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30_000)
    parser.add_argument("--api-key")
    parser.add_argument("--weight-version", default="default")
    parser.add_argument("--served-model-name")
    parser.add_argument("--context-length", type=int)
    parser.add_argument("--max-running-requests", type=int, default=64)
    parser.add_argument("--tp-size", "--tensor-parallel-size", type=int, default=1)
    given = parser.parse_args(list(arguments))
    if given.config is not None:
        for name, value in _yaml(Path(given.config)).items():
            setattr(given, name.replace("-", "_"), value)
    key = given.admin_api_key or given.api_key
    folder: Path = given.model_path
    engine = EngineSetup(
        "sglang",
        folder,
        dtype=given.dtype if given.dtype not in (None, "auto") else "bfloat16",
        max_num_seqs=given.max_running_requests,
        context=given.context_length,
        label=given.weight_version,
        plugin=given.enable_custom_logit_processor,
        deterministic=given.enable_deterministic_inference,
        prefix_caching=not given.disable_radix_cache,
    )
    return Setting(
        engine,
        given.served_model_name or str(folder),
        given.host,
        given.port,
        (key,) if key else (),
        end_tokens_of(folder) | (frozenset() if given.skip_tokenizer_init else tokenizer_end(folder)),
        without_text=given.skip_tokenizer_init,
        flags=_plain(given),
    )


def _vllm(arguments: Sequence[str], environment: Mapping[str, str]) -> Setting:
    parser = _parser("vllm serve", _VLLM_VALUES, _VLLM_SWITCHES)
    parser.add_argument("model_tag", nargs="?", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key", nargs="*", default=[])
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    parser.add_argument("--logits-processors", nargs="+", default=[])
    given = parser.parse_args(list(arguments))
    folder: Path | None = given.model_tag or given.model
    if folder is None:
        parser.error("the following arguments are required: model_tag")
    keys = given.api_key or [key for key in [environment.get("VLLM_API_KEY")] if key]
    engine = EngineSetup(
        "vllm",
        folder,
        dtype=given.dtype if given.dtype not in (None, "auto") else "bfloat16",
        max_num_seqs=given.max_num_seqs,
        context=given.max_model_len,
        plugin=any(name.startswith("grail_seeded_sampling:") for name in given.logits_processors),
        prefix_caching=not given.no_enable_prefix_caching,
    )
    applies = given.generation_config in (None, "auto")
    return Setting(
        engine,
        given.served_model_name[0] if given.served_model_name else str(folder),
        given.host,
        given.port,
        tuple(keys),
        end_tokens_of(folder, generation_config=applies),
        folder_defaults=generation_config(folder) if applies else {},
        development=environment.get("VLLM_SERVER_DEV_MODE") == "1",
        guards_everything=given.middleware is not None,
        scale_out=given.enable_scale_out,
        sleep_mode=given.enable_sleep_mode,
        flags=_plain(given),
    )


def generation_config(folder: Path) -> dict[str, Any]:
    """The folder's generation_config.json; empty where there is none."""
    file = folder / "generation_config.json"
    value = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not isinstance(value, dict):
        raise ValueError(f"{file} is no object")
    return value


def end_tokens_of(folder: Path, *, generation_config: bool = True) -> frozenset[int]:
    """The end tokens that an engine takes from a folder: config.json's, and generation_config.json's beside them."""
    names = ["config.json", "generation_config.json"] if generation_config else ["config.json"]
    found: set[int] = set()
    for name in names:
        file = folder / name
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
        found.update([ends] if isinstance(ends, int) else ends or [])
    return frozenset(found)


def tokenizer_end(folder: Path) -> frozenset[int]:
    """The tokenizer's own end token, where the folder has a tokenizer with one."""
    settings, words = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not settings.exists() or not words.exists():
        return frozenset()
    named = json.loads(settings.read_text(encoding="utf-8")).get("eos_token")
    end = named.get("content") if isinstance(named, dict) else named
    found = Tokenizer.from_file(str(words)).token_to_id(end) if isinstance(end, str) else None
    return frozenset() if found is None else frozenset({found})


def _yaml(file: Path) -> dict[str, str]:
    """The flat `name: value` lines of a configuration file."""
    lines = [line.partition(":") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {name.strip(): value.strip().strip("\"'") for name, _, value in lines}


def _plain(given: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in sorted(vars(given).items())}
