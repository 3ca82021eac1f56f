"""What is SGLang's own: its request, its deterministic mode, and a failed update that says it has rolled back."""

from __future__ import annotations

import json
import pickletools
from pathlib import Path

import pytest

from grail_core.errors import EngineError, ProtocolViolationError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.options import EngineOptions
from grail_core.generation.plugin import SGLANG_PROCESSOR
from grail_core.generation.sglang import SglangGenerator
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import Fault
from tooling.testing.engine_weights import POLICY, TinyCheckpoint, by_index, requests

SAMPLING_PARAMS = {
    *("max_new_tokens", "stop", "stop_token_ids", "stop_regex", "temperature", "top_p", "top_k", "min_p", "frequency_penalty"),
    *("presence_penalty", "repetition_penalty", "min_new_tokens", "n", "json_schema", "regex", "ebnf", "structural_tag"),
    *("ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "no_stop_trim", "stream_interval", "logit_bias"),
    *("sampling_seed", "custom_params", "beam_width", "watermark"),
}
"""All that SGLang 0.5.23 takes, but for `choice`, which its HTTP server does not know; anything else it refuses."""

ASKED = requests()


def generator_of(url: str, *, native: bool = False) -> SglangGenerator:
    options = EngineOptions("sglang", url=url, native_sampling=native, max_concurrent=4)
    return SglangGenerator(url, options, numerics_class="of-a-double", retry_s=0.0)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return TinyCheckpoint.save(tmp_path_factory.mktemp("old") / "checkpoint", seed=5)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return TinyCheckpoint.save(tmp_path_factory.mktemp("new") / "checkpoint", seed=6)


def test_every_sampling_value_is_in_every_request(old: TinyCheckpoint) -> None:
    body = generator_of("http://h:1").request_body(old.weights(), (9, 8), 2**63 - 5, 4, "r")
    sampling = body["sampling_params"]
    assert sampling.keys() == SAMPLING_PARAMS
    assert sampling["custom_params"] == {
        "grail_seed": str(2**63 - 5),
        "grail_temperature": POLICY.temperature,
        "grail_top_k": POLICY.top_k,
        "grail_top_p": POLICY.top_p,
    }
    assert sampling["temperature"] == 0
    assert json.loads(json.dumps(body)) == body


def test_the_processor_is_named_and_nothing_of_ours_is_sent() -> None:
    code = bytes.fromhex(json.loads(SGLANG_PROCESSOR)["callable"])
    assert [(op.name, argument) for op, argument, _ in pickletools.genops(code)] == [
        ("GLOBAL", "grail_seeded_sampling GrailCustomLogitProcessor"),
        ("STOP", None),
    ]


@pytest.mark.parametrize(
    ("policy", "native"),
    [
        (GenerationPolicy(6, temperature=0.8), True),
        (GenerationPolicy(6, temperature=0.8, top_p=0.9), False),
        (GenerationPolicy(6, temperature=0.8, top_k=9), False),
    ],
)
def test_its_own_sampler_draws_where_the_policy_allows_and_our_processor_elsewhere(
    old: TinyCheckpoint, policy: GenerationPolicy, native: bool
) -> None:
    body = generator_of("http://h:1", native=True).request_body(old.weights(policy), (9,), 7, 4, "r")
    assert (body["custom_logit_processor"] is None) == native
    assert (body["sampling_params"]["custom_params"] is None) == native
    assert body["sampling_params"]["temperature"] == (0.8 if native else 0.0)
    assert body["sampling_params"]["sampling_seed"] == 7


def test_the_deterministic_mode_draws_what_the_protocol_says(old: TinyCheckpoint) -> None:
    policy = GenerationPolicy(6, temperature=0.8)
    with EngineDouble.of("sglang", old.folder, "--enable-deterministic-inference", plugin=False) as double:
        generator = generator_of(double.url, native=True)
        generator.serve(old.weights(policy))
        assert by_index(list(generator.generate(ASKED, lambda: False))) == old.draw(ASKED, policy)
        generator.close()


def test_a_server_without_the_processor_is_told_by_its_own_words(old: TinyCheckpoint) -> None:
    with EngineDouble.of("sglang", old.folder, plugin=False) as double:
        generator = generator_of(double.url)
        generator.serve(old.weights())
        with pytest.raises(EngineError, match="enable-custom-logit-processor"):
            list(generator.generate(ASKED, lambda: False))
        generator.close()


@pytest.mark.parametrize(("kind", "keeps"), [("update_refused", True), ("update_torn", False)])
def test_after_a_failed_update_the_checksum_decides_what_is_served(
    old: TinyCheckpoint, new: TinyCheckpoint, kind: str, keeps: bool
) -> None:
    with EngineDouble.of("sglang", old.folder, label=old.version) as double:
        generator = generator_of(double.url)
        generator.adopt(old.weights())
        double.faults.add(Fault(kind))
        with pytest.raises(EngineError):
            generator.serve(new.weights())
        assert generator.version == (old.version if keeps else None)
        if keeps:
            assert by_index(list(generator.generate(ASKED, lambda: False))) == old.draw(ASKED)
        generator.close()


def test_a_label_without_its_weights_is_found_out(old: TinyCheckpoint, new: TinyCheckpoint) -> None:
    with EngineDouble.of("sglang", old.folder) as double:
        generator = generator_of(double.url)
        generator.serve(old.weights())
        double.faults.add(Fault("label_only"))
        with pytest.raises(EngineError, match="weights are what they were"):
            generator.serve(new.weights())
        assert double.engine.label == new.version
        assert generator.version is None
        generator.close()


def test_two_tokens_of_its_context_are_the_servers_own(tmp_path: Path) -> None:
    checkpoint = TinyCheckpoint.save(tmp_path / "checkpoint", seed=5)
    with EngineDouble.of("sglang", checkpoint.folder) as double:
        options = EngineOptions("sglang", url=double.url, max_model_len=3 + 6 + 1)
        generator = SglangGenerator(double.url, options, numerics_class="of-a-double", retry_s=0.0)
        generator.serve(checkpoint.weights())
        with pytest.raises(ProtocolViolationError, match="need 11"):
            generator.generate([GenerationRequest((20, 21, 22), 1)], lambda: False)
        generator.close()
