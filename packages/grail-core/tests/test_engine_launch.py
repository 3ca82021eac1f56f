"""What an engine is started with: every flag that decides its tokens, and nothing of ours that is secret."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import ConfigurationError
from grail_core.generation.base import ServedWeights
from grail_core.generation.launch import Launch, environment, launch, visible_devices
from grail_core.generation.options import EngineOptions
from grail_core.generation.plugin import FOLDER
from grail_core.generation.plugin.grail_engine_guard import EngineGuard
from grail_core.protocol.policy import GenerationPolicy

WEIGHTS = ServedWeights("ab" * 32, Path("/weights"), GenerationPolicy(max_tokens=8), frozenset({0}), 320, 4_096)
SGLANG = EngineOptions("sglang", python=Path("/engine/bin/python"), gpus=(0, 1))
VLLM = EngineOptions("vllm", python=Path("/engine/bin/python"), gpus=(1,))
OURS = {
    "PATH": "/bin",
    "OMP_NUM_THREADS": "4",
    "VLLM_LOGGING_LEVEL": "DEBUG",
    "VLLM_API_KEY": "somebody's",
    "SGLANG_HF_TOKEN": "secret",
    "BT_WALLET_PATH": "/wallets",
    "GRAIL_R2_SECRET_ACCESS_KEY": "secret",
    "R2_ACCOUNT_ID": "account",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "HF_TOKEN": "secret",
    "PYTHONPATH": "/ours",
    "CUDA_VISIBLE_DEVICES": "3,5,GPU-7",
    "http_proxy": "http://proxy",
}


def launched(options: EngineOptions, port: int = 4242, numerics_class: str | None = None) -> Launch:
    scratch = Path("/scratch")
    return launch(options, WEIGHTS, port, api_key="grail-key", scratch=scratch, own=OURS, numerics_class=numerics_class)


def flags(made: Launch) -> dict[str, str]:
    """By name, with the value that follows, "" where there is none."""
    words = made.command
    return {
        word: following if not following.startswith("--") else ""
        for word, following in zip(words, (*words[1:], "--"), strict=True)
        if word.startswith("--")
    }


def test_sglang_is_told_everything_that_decides_its_tokens() -> None:
    made = launched(SGLANG)
    told = flags(made)
    assert made.command[:3] == ("/engine/bin/python", "-m", "sglang.launch_server")
    assert (told["--host"], told["--port"], told["--model-path"]) == ("127.0.0.1", "4242", "/weights")
    assert (told["--weight-version"], told["--dtype"]) == (WEIGHTS.version, "bfloat16")
    assert (told["--tp-size"], told["--mem-fraction-static"], told["--max-running-requests"]) == ("2", "0.9", "64")
    assert told["--sampling-defaults"] == "openai"  # not the folder's
    for switch in ("--enable-fp32-lm-head", "--enable-custom-logit-processor", "--skip-tokenizer-init"):
        assert told[switch] == ""
    assert "--enable-deterministic-inference" not in told
    assert "--cuda-graph-backend-decode" not in told


def test_vllm_is_told_everything_that_decides_its_tokens() -> None:
    made = launched(VLLM)
    told = flags(made)
    assert made.command[:5] == ("/engine/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", "/weights")
    assert (told["--host"], told["--generation-config"]) == ("127.0.0.1", "vllm")
    assert told["--logits-processors"] == "grail_seeded_sampling:GrailLogitsProcessor"
    assert told["--hf-overrides"] == '{"head_dtype": "float32"}'
    assert told["--middleware"] == "grail_engine_guard.EngineGuard"
    assert made.environment["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert made.environment["VLLM_SERVER_DEV_MODE"] == "1"


@pytest.mark.parametrize("options", [SGLANG, VLLM])
def test_what_a_setting_says_is_what_the_engine_is_told(options: EngineOptions) -> None:
    fewer = replace(options, max_model_len=1_000, memory_share=0.5, max_num_seqs=7, cuda_graph=False)
    told, before = flags(launched(fewer)), flags(launched(options))
    sglang = options.backend == "sglang"
    assert told["--context-length" if sglang else "--max-model-len"] == "1000"
    whole = "4098" if sglang else "4096"  # all that the model has; SGLang keeps two tokens for itself
    assert before["--context-length" if sglang else "--max-model-len"] == whole
    assert told["--mem-fraction-static" if sglang else "--gpu-memory-utilization"] == "0.5"
    assert told["--max-running-requests" if sglang else "--max-num-seqs"] == "7"
    assert ("--cuda-graph-backend-decode" if sglang else "--enforce-eager") in told


def test_native_sampling_is_sglangs_deterministic_mode_and_nobody_elses() -> None:
    told = flags(launched(replace(SGLANG, native_sampling=True)))
    assert "--enable-deterministic-inference" in told
    assert "--enable-custom-logit-processor" not in told  # it runs what a request brings
    for options in (replace(VLLM, native_sampling=True), replace(SGLANG, native_sampling=True, gpus=())):
        with pytest.raises(ConfigurationError):
            launched(options)
    with pytest.raises(ConfigurationError, match="hf has no server"):
        launched(EngineOptions("hf"))


def test_what_is_started_is_what_the_header_names() -> None:
    """Attention follows the numerics class and not the GPU that the engine finds, and so does a head that rounds."""
    for options, name, attention in (
        (SGLANG, "bf16-flash-cuda-sglang", "fa3"),
        (SGLANG, "bf16-triton-cuda-sglang", "triton"),
        (VLLM, "bf16-flash-cuda-vllm", "FLASH_ATTN"),
        (VLLM, "bf16-flashinfer-cuda-vllm", "FLASHINFER"),
    ):
        exact, rounded = launched(options, numerics_class=name), launched(options, numerics_class=f"{name}-bf16head")
        assert flags(exact)["--attention-backend"] == flags(rounded)["--attention-backend"] == attention
        keeps = "--enable-fp32-lm-head" if options is SGLANG else "--hf-overrides"
        assert keeps in exact.command
        assert keeps not in rounded.command
        assert "GRAIL_ROUNDED_HEAD_ALLOWED" not in exact.environment
        assert rounded.environment["GRAIL_ROUNDED_HEAD_ALLOWED"] == "1"
    assert "--attention-backend" not in flags(launched(SGLANG, numerics_class="bf16-sdpa-cuda-transformers"))
    with pytest.raises(ConfigurationError, match="no attention that bf16-sdpa-cuda-sglang names"):
        launched(SGLANG, numerics_class="bf16-sdpa-cuda-sglang")


def test_an_engine_on_the_cpu_sees_no_gpu() -> None:
    for options in (replace(SGLANG, gpus=(), dtype="float32"), replace(VLLM, gpus=(), dtype="float32")):
        made = launched(options)
        assert made.environment["CUDA_VISIBLE_DEVICES"] == ""
        assert flags(made)["--dtype"] == "float32"
        assert not {"--tp-size", "--tensor-parallel-size", "--gpu-memory-utilization", "--enable-sleep-mode"} & set(
            made.command
        )


@pytest.mark.parametrize("options", [SGLANG, VLLM])
def test_no_secret_of_ours_reaches_an_engine(options: EngineOptions) -> None:
    made = launched(options)
    assert not {"BT_WALLET_PATH", "R2_ACCOUNT_ID", "HF_TOKEN", "SGLANG_HF_TOKEN", "http_proxy"} & set(made.environment)
    assert "secret" not in str(made)
    assert made.environment["OMP_NUM_THREADS"] == "4"
    assert made.environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert made.environment["PYTHONPATH"] == str(FOLDER)
    assert made.environment["HF_HUB_OFFLINE"] == "1"
    assert "grail-key" not in " ".join(made.command)  # which every user of the machine can read
    key = made.environment.get("VLLM_API_KEY") or "".join(made.files.values())
    assert "grail-key" in key
    assert "somebody" not in str(made)


def test_gpus_are_counted_among_those_that_we_see() -> None:
    assert visible_devices((0, 1), None) == "0,1"
    assert visible_devices((2, 0), "3,5,GPU-7") == "GPU-7,3"
    assert environment(VLLM, OURS)["CUDA_VISIBLE_DEVICES"] == "5"
    with pytest.raises(ConfigurationError, match="GPU 2 is beyond the 2"):
        visible_devices((2,), "3,5")
    with pytest.raises(ConfigurationError, match="not different"):
        visible_devices((1, 1), None)


def test_vllm_answers_nobody_without_the_key_where_weights_are_reloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "grail-key")

    async def engine(scope: MutableMapping[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    guard = EngineGuard(engine)

    def status(path: str, *headers: tuple[bytes, bytes], kind: str = "http", method: str = "POST") -> object:
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": kind, "path": path, "method": method, "headers": list(headers)}
        asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
        return sent[0].get("status", sent[0]["type"])

    key = (b"authorization", b"Bearer grail-key")
    for path in ("/collective_rpc", "/v1/completions", "/pause", "/health/../pause", "/docs"):
        assert status(path, key) == 200
        assert status(path) == 401
        assert status(path, (b"authorization", b"Bearer grail-kez")) == 401
        assert status(path, key, key) == 401
        assert status(path, method="OPTIONS") == 401
    assert status("/health", method="GET") == 200
    assert status("/v1/realtime", key, kind="websocket") == "websocket.close"
    monkeypatch.setenv("VLLM_API_KEY", "")
    with pytest.raises(ValueError, match="empty"):
        EngineGuard(engine)
