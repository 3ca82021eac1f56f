"""A miner's pipeline settings are read strictly, a wrong value is explained, and a name of older miners has a successor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.generation.options import least_model_len, require_model_len
from grail_core.participant.settings import Settings, load_settings, resolve
from grail_core.protocol.policy import GenerationPolicy


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.delenv("GRAIL_CONFIG", raising=False)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GRAIL_PIPELINE_PROOF_SUBPROCESS", "yes", "it is not true or false"),
        ("GRAIL_PIPELINE_PROOF_SUBPROCESS", "1", "it is not true or false"),
        ("GRAIL_PIPELINE_DISABLE_CUDA_GRAPH", "on", "it is not true or false"),
        ("GRAIL_PIPELINE_GPU_MEM_UTIL", "90", "a number from 0.05 to 0.99"),
        ("GRAIL_PIPELINE_GPU_MEM_UTIL", "90%", "with a point and no %"),
        ("GRAIL_PIPELINE_GPU_MEM_UTIL", "nan", "a number from"),
        ("GRAIL_PIPELINE_GPU_MEM_UTIL", "1e-1", "a number from"),
        ("GRAIL_PIPELINE_VLLM_GPU", "cuda:0", "a whole number from 0 to 63"),
        ("GRAIL_PIPELINE_VLLM_TP", "0", "a whole number from 1 to 64"),
        ("GRAIL_PIPELINE_PROOF_GPU_IDS", "2;3", "no list of GPU indices"),
        ("GRAIL_PIPELINE_PROOF_GPU_IDS", "2,2", "names a GPU twice"),
        ("GRAIL_PIPELINE_PROOF_GPU_IDS", "2,999", "beyond the 64"),
        ("GRAIL_SGLANG_URL", "127.0.0.1:30000", "no URL of a server"),
        ("GRAIL_SGLANG_URL", "http://user:word@127.0.0.1:30000", "scheme, host and port alone"),
        ("GRAIL_VLLM_URL", "http://127.0.0.1:99999", "no URL"),
        ("GRAIL_PIPELINE_BACKEND", "SGLang", "one of hf, sglang, vllm"),
        ("GRAIL_DEVICE", "gpu0", "no torch device"),
        ("GRAIL_DEVICE", "cuda:", "no torch device"),
    ],
)
def test_a_wrong_value_is_explained_and_never_repeated(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as caught:
        load_settings()
    assert says in caught.value.what
    assert caught.value.where == "environment"
    assert "word" not in str(caught.value).replace("words", "")


def test_all_wrong_values_are_named_at_once_with_where_each_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETUID", "many")
    Path(".env").write_text("GRAIL_PIPELINE_VLLM_TP=0\n\nGRAIL_PIPELINE_PROOF_SUBPROCESS=yes\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    for name in ("NETUID", "GRAIL_PIPELINE_VLLM_TP", "GRAIL_PIPELINE_PROOF_SUBPROCESS"):
        assert f"{name}: it is not " in caught.value.what
    assert [line.strip().split(": ")[0] for line in caught.value.what.splitlines()[1:]] == [
        "environment",
        ".env, line 1",
        ".env, line 3",
    ]
    assert caught.value.where == "environment, .env"


def test_a_toml_file_has_switches_and_numbers_of_its_own() -> None:
    Path("grail.toml").write_text(
        'GRAIL_PIPELINE_PROOF_SUBPROCESS = true\nGRAIL_PIPELINE_GPU_MEM_UTIL = 0.5\nGRAIL_PIPELINE_PROOF_GPU_IDS = "1, 2"\n'
    )
    settings = load_settings()
    assert settings.pipeline_proof_subprocess is True
    assert settings.pipeline_gpu_mem_util == 0.5
    assert settings.pipeline_proof_gpu_ids == "1,2"
    Path("grail.toml").write_text("GRAIL_PIPELINE_PROOF_SUBPROCESS = 1\n")
    with pytest.raises(ConfigurationError, match="true or false"):
        load_settings()


def test_a_switch_is_shown_as_one_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_PIPELINE_PROOF_SUBPROCESS", "True")
    rows = {name: value for name, value, _ in resolve().rows()}
    assert rows["GRAIL_PIPELINE_PROOF_SUBPROCESS"] == "true"
    assert rows["GRAIL_PIPELINE_DISABLE_CUDA_GRAPH"] == "false"


def test_a_name_of_older_miners_is_answered_with_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_GENERATION_BATCH_SIZE", "16")
    (told,) = map(str, resolve().unknown)
    assert "not read" in told
    assert "GRAIL_PIPELINE_GROUPS_PER_BATCH" in told
    assert load_settings().pipeline_groups_per_batch == 8, "16 rollouts are not 16 groups: the value is not taken over"
    monkeypatch.delenv("GRAIL_GENERATION_BATCH_SIZE")
    Path(".env").write_text("GRAIL_GENERATION_BATCH_SIZE=16\n")
    assert [one.origin for one in resolve().unknown] == [".env, line 1"]
    Path(".env").unlink()
    Path("grail.toml").write_text("GRAIL_GENERATION_BATCH_SIZE = 16\n")
    with pytest.raises(ConfigurationError, match="not read") as caught:
        load_settings()
    assert "GRAIL_PIPELINE_GROUPS_PER_BATCH" in caught.value.hint


def test_an_engine_that_another_wheel_adds_may_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_PIPELINE_BACKEND", "abacus")
    with pytest.raises(ConfigurationError, match="no wheel here adds"):
        load_settings()
    told = tmp_path / "abacus-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[grail.generators]\nabacus = abacus:make\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert load_settings().pipeline_backend == "abacus"


@pytest.mark.parametrize(
    ("max_tokens", "context", "least"),
    [
        (8_192, 131_072, 12_288),  # the default of GRAIL_PIPELINE_MAX_MODEL_LEN: the longest row there is
        (8_192, 4_096, 4_096),  # the model's own context ends it first
        (1_024, 131_072, 5_120),
        (100_000, 131_072, 12_288),  # the protocol's cap ends it first
    ],
)
def test_an_engine_with_less_room_than_the_policy_needs_is_refused_with_the_least_value(
    max_tokens: int, context: int, least: int
) -> None:
    policy = GenerationPolicy(max_tokens)
    assert least_model_len(policy, context) == least
    require_model_len(least, policy, context)
    with pytest.raises(ProtocolViolationError, match=f"may need {least}") as refused:
        require_model_len(least - 1, policy, context)
    assert refused.value.where == "GRAIL_PIPELINE_MAX_MODEL_LEN"
    assert f"set it to {least}" in refused.value.hint
