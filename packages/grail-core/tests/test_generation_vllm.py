"""What is vLLM's own: its request, a label that goes on before the weights do, and sleep."""

from __future__ import annotations

import json

import pytest

from grail_core.errors import EngineError
from grail_core.generation.options import EngineOptions
from grail_core.generation.vllm import VllmGenerator
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import Fault
from tooling.testing.engine_double.weights import digest_of
from tooling.testing.engine_weights import POLICY, TinyCheckpoint, by_index, requests

SAMPLING_FIELDS = {
    *("n", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "top_p", "top_k", "min_p", "seed"),
    *("stop", "stop_token_ids", "ignore_eos", "max_tokens", "min_tokens", "logprobs", "prompt_logprobs", "detokenize"),
    *("skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "structured_outputs", "logit_bias"),
    *("allowed_token_ids", "extra_args", "bad_words", "thinking_token_budget", "repetition_detection", "watermarking"),
}
"""Fields of vLLM 0.33's SamplingParams that say what is drawn, or what of it comes back."""

ASKED = requests()


def generator_of(url: str, *, sleep: bool = False) -> VllmGenerator:
    options = EngineOptions("vllm", url=url, max_concurrent=4)
    return VllmGenerator(url, options, numerics_class="of-a-double", retry_s=0.0, sleep=sleep)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return TinyCheckpoint.save(tmp_path_factory.mktemp("old") / "checkpoint", seed=5)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return TinyCheckpoint.save(tmp_path_factory.mktemp("new") / "checkpoint", seed=6)


def test_every_sampling_value_is_in_every_request(old: TinyCheckpoint) -> None:
    body = generator_of("http://h:1").request_body(old.weights(), (9, 8), 2**63 - 5, 4, "r")
    sampling = body["sampling_params"]
    assert sampling.keys() == SAMPLING_FIELDS
    assert sampling["extra_args"] == {
        "grail_seed": str(2**63 - 5),
        "grail_temperature": POLICY.temperature,
        "grail_top_k": POLICY.top_k,
        "grail_top_p": POLICY.top_p,
    }
    assert (sampling["temperature"], sampling["ignore_eos"], sampling["n"]) == (0, True, 1)
    assert json.loads(json.dumps(body)) == body


def test_a_failed_reload_takes_the_label_off_again(old: TinyCheckpoint, new: TinyCheckpoint) -> None:
    with EngineDouble.of("vllm", old.folder) as double:
        generator = generator_of(double.url)
        generator.serve(old.weights())
        double.faults.add(Fault("update_torn"))
        with pytest.raises(EngineError, match="broke off"):
            generator.serve(new.weights())
        assert generator.version is None
        assert double.engine.label not in (old.version, new.version)
        assert double.engine.frozen  # until whole weights are there
        generator.close()


def test_without_its_development_mode_the_way_out_is_named(old: TinyCheckpoint) -> None:
    with EngineDouble.of("vllm", old.folder) as double:
        double.server.routes = {key: route for key, route in double.server.routes.items() if key[1] != "/pause"}
        generator = generator_of(double.url)
        with pytest.raises(EngineError, match="404") as failed:
            generator.serve(old.weights())
        assert "VLLM_SERVER_DEV_MODE=1" in failed.value.hint
        generator.close()


def test_a_roll_through_sleep_gives_memory_back_and_ends_awake(old: TinyCheckpoint, new: TinyCheckpoint) -> None:
    with EngineDouble.of("vllm", old.folder, "--enable-sleep-mode") as double:
        generator = generator_of(double.url, sleep=True)
        for checkpoint in (old, new):
            generator.serve(checkpoint.weights())
            assert double.engine.digest() == digest_of(checkpoint.model())
            assert by_index(list(generator.generate(ASKED, lambda: False))) == checkpoint.draw(ASKED)
        paths = [
            path for _, path in double.server.asked if path.startswith(("/sleep", "/wake_up", "/collective_rpc", "/resume"))
        ]
        assert paths == ["/sleep", "/wake_up", "/collective_rpc", "/wake_up", "/resume"] * 2
        generator.close()


def test_an_engine_that_cannot_sleep_is_not_believed_to(old: TinyCheckpoint, new: TinyCheckpoint) -> None:
    with EngineDouble.of("vllm", old.folder) as double:
        generator = generator_of(double.url, sleep=True)
        with pytest.raises(EngineError, match="enable-sleep-mode"):
            generator.serve(new.weights())
        assert generator.version is None
        generator.close()
