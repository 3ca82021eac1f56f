"""Requests of one call that are drawn by policies of their own: each as if it were alone with its policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from torch import Tensor

from grail_core.errors import ProtocolViolationError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.generation.in_process import InProcessGenerator
from grail_core.generation.options import EngineOptions
from grail_core.generation.remote import RemoteGenerator
from grail_core.generation.rows import make_rows
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.supervised import SupervisedGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.model.sampling import Floats, SeededSampler
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_weights import CONTEXT, END, TinyCheckpoint, by_index, requests

Flavour = Literal["sglang", "vllm"]
DEFAULT = GenerationPolicy(10)
PLAIN, COOL, NUCLEUS = (
    GenerationPolicy(10, temperature=0.9),
    GenerationPolicy(10, temperature=0.5, top_k=5),
    GenerationPolicy(7, top_p=0.9),
)
PENALISED = GenerationPolicy(10, repetition_penalty=1.2)
SHORT = GenerationPolicy(2)
FOR_ENGINES = (None, PLAIN, COOL, NUCLEUS, SHORT)
ALL = (*FOR_ENGINES, PENALISED)

NO_POLICIES = [
    GenerationPolicy(10, temperature=0.0),
    GenerationPolicy(10, temperature=float("nan")),
    GenerationPolicy(10, temperature=float("inf")),
    GenerationPolicy(10, top_p=0.0),
    GenerationPolicy(10, top_p=1.1),
    GenerationPolicy(10, top_k=0),
    GenerationPolicy(10, repetition_penalty=0.0),
    GenerationPolicy(0),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return TinyCheckpoint.save(tmp_path_factory.mktemp("model") / "checkpoint", seed=5)


def mixed(policies: Sequence[GenerationPolicy | None]) -> list[GenerationRequest]:
    """Every policy with prompts that it shares with all others, and with one of its own."""
    shared = requests(groups=2, rows=2 * len(policies))
    own = requests(groups=len(policies), rows=1, seed=1)
    return [replace(one, policy=policies[index % len(policies)]) for index, one in enumerate([*shared, *own])]


def alone(checkpoint: TinyCheckpoint, asked: Sequence[GenerationRequest]) -> dict[int, tuple[int, ...]]:
    """What a generator of each policy's own draws for its requests, which name no policy then."""
    found = {}
    for policy in dict.fromkeys(request.policy for request in asked):
        chosen = [index for index, request in enumerate(asked) if request.policy == policy]
        drawn = checkpoint.draw([replace(asked[index], policy=None) for index in chosen], policy or DEFAULT)
        found.update({index: drawn[at] for at, index in enumerate(chosen)})
    return found


class Recorder(SeededSampler):
    """Notes what it was asked for."""

    def __init__(self, policy: GenerationPolicy) -> None:
        super().__init__(policy)
        self.asked: list[tuple[int, tuple[int, ...], bool]] = []  # rows, their seeds, with histories

    def sample(
        self,
        logits: Tensor | Floats,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        histories: Sequence[Sequence[int]] | None = None,
    ) -> npt.NDArray[np.int64]:
        assert len(logits) == len(seeds) == len(positions)
        self.asked.append((len(logits), tuple(seeds.tolist()), histories is not None))
        return super().sample(logits, seeds, positions, histories)

    @property
    def seeds(self) -> set[int]:
        return {seed for _, seeds, _ in self.asked for seed in seeds}


# In this process.


@pytest.mark.parametrize("batch_rows", [512, 7])
def test_each_row_of_a_mixed_batch_gets_the_tokens_of_its_policy_alone(checkpoint: TinyCheckpoint, batch_rows: int) -> None:
    asked = mixed(ALL)
    found = HfGenerator(checkpoint.model(), DEFAULT, END, batch_rows).generate(asked)
    assert {index: one.tokens for index, one in enumerate(found)} == alone(checkpoint, asked)


def test_the_policies_of_these_tests_tell_rows_apart(checkpoint: TinyCheckpoint) -> None:
    """Else equal tokens would show nothing."""
    asked = requests(groups=2, rows=4)
    drawn = [tuple(checkpoint.draw(asked, policy or DEFAULT).values()) for policy in ALL]
    assert len(set(drawn)) == len(ALL)


def test_rows_end_at_the_limit_of_their_own_policy(checkpoint: TinyCheckpoint) -> None:
    prompt = (20, 21, 22)
    limits = [1, 3, 10, CONTEXT]
    asked = [GenerationRequest(prompt, 7, GenerationPolicy(limit)) for limit in limits]
    found = [one.tokens for one in HfGenerator(checkpoint.model(), DEFAULT, frozenset()).generate(asked)]
    assert [len(tokens) for tokens in found] == [1, 3, 10, CONTEXT - len(prompt)]
    assert all(tokens == found[-1][: len(tokens)] for tokens in found)


def test_without_policies_of_requests_the_given_sampler_is_asked_once_a_step_for_all_rows(checkpoint: TinyCheckpoint) -> None:
    asked = requests(groups=2, rows=3)
    recorder = Recorder(DEFAULT)
    HfGenerator(checkpoint.model(), DEFAULT, frozenset(), sampler=recorder).generate(asked)
    assert [(rows, histories) for rows, _, histories in recorder.asked] == [(len(asked), False)] * DEFAULT.max_tokens


def test_the_given_sampler_draws_what_is_sampled_as_the_default_says_and_nothing_else(checkpoint: TinyCheckpoint) -> None:
    asked = mixed(ALL)
    recorder = Recorder(DEFAULT)
    HfGenerator(checkpoint.model(), DEFAULT, END, sampler=recorder).generate(asked)
    assert recorder.seeds == {one.sampling_seed for one in asked if one.policy in (None, SHORT)}


def test_policies_that_differ_in_max_tokens_alone_are_sampled_together(checkpoint: TinyCheckpoint) -> None:
    asked = [replace(one, policy=SHORT if index % 2 else None) for index, one in enumerate(requests(groups=2, rows=4))]
    recorder = Recorder(DEFAULT)
    HfGenerator(checkpoint.model(), DEFAULT, frozenset(), sampler=recorder).generate(asked)
    assert [rows for rows, _, _ in recorder.asked] == [8] * SHORT.max_tokens + [4] * (DEFAULT.max_tokens - SHORT.max_tokens)


def test_histories_are_made_for_rows_with_a_penalty_alone(checkpoint: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = mixed(ALL)
    made: set[tuple[float, bool]] = set()
    plain = SeededSampler.sample

    def sample(self: SeededSampler, *given: Any) -> npt.NDArray[np.int64]:
        made.add((self.policy.repetition_penalty, given[3] is not None))
        return plain(self, *given)

    monkeypatch.setattr(SeededSampler, "sample", sample)
    HfGenerator(checkpoint.model(), DEFAULT, END).generate(asked)
    assert made == {(1.0, False), (1.2, True)}


@pytest.mark.parametrize("policy", NO_POLICIES, ids=str)
def test_a_policy_that_is_none_is_named_before_anything_is_drawn(checkpoint: TinyCheckpoint, policy: GenerationPolicy) -> None:
    asked = [*requests(), GenerationRequest((20, 21), 1, policy)]
    recorder = Recorder(DEFAULT)
    with pytest.raises(ProtocolViolationError) as refused:
        HfGenerator(checkpoint.model(), DEFAULT, END, sampler=recorder).generate(asked)
    assert refused.value.where == f"policy of row {len(asked) - 1}"
    assert refused.value.hint
    assert recorder.asked == []
    with pytest.raises(ProtocolViolationError, match=str(refused.value.what[:10])):
        make_rows(asked, checkpoint.weights(DEFAULT), 1_000, 0)


def test_the_generator_in_this_process_passes_policies_through(checkpoint: TinyCheckpoint) -> None:
    asked = mixed(ALL)
    generator = InProcessGenerator(lambda _: "class")
    generator.serve(replace(checkpoint.weights(DEFAULT), model=checkpoint.model()))
    assert by_index(list(generator.generate(asked, lambda: False))) == alone(checkpoint, asked)


# Engines.


@pytest.fixture(params=["sglang", "vllm"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


def generator_of(flavour: Flavour, url: str, *, native: bool = False) -> RemoteGenerator:
    kind = SglangGenerator if flavour == "sglang" else VllmGenerator
    options = EngineOptions(flavour, url=url, native_sampling=native, max_concurrent=4)
    return kind(url, options, numerics_class="of-a-double", retry_s=0.0)


def test_an_engine_draws_each_row_by_its_own_policy(flavour: Flavour, checkpoint: TinyCheckpoint) -> None:
    asked = mixed(FOR_ENGINES)
    with EngineDouble.of(flavour, checkpoint.folder) as double:
        generator = generator_of(flavour, double.url)
        generator.serve(checkpoint.weights(DEFAULT))
        assert by_index(list(generator.generate(asked, lambda: False))) == alone(checkpoint, asked)
        generator.close()
        keys = [request.sampling.keys for request in double.engine.finished]
        wanted = [(one.sampling_seed, one.policy or DEFAULT) for one in asked]
        assert {(key.seed, key.temperature, key.top_k, key.top_p) for key in keys if key is not None} == {
            (seed, policy.temperature, policy.top_k, policy.top_p) for seed, policy in wanted
        }


@pytest.mark.parametrize("policy", [PENALISED, NO_POLICIES[0]], ids=str)
def test_an_engine_is_asked_nothing_where_one_row_s_policy_cannot_be_followed(
    flavour: Flavour, checkpoint: TinyCheckpoint, policy: GenerationPolicy
) -> None:
    with EngineDouble.of(flavour, checkpoint.folder) as double:
        generator = generator_of(flavour, double.url)
        generator.serve(checkpoint.weights(DEFAULT))
        before = len(double.server.asked)
        with pytest.raises(ProtocolViolationError) as refused:
            generator.generate([*requests(), GenerationRequest((20, 21), 1, policy)], lambda: False)
        assert refused.value.where
        assert refused.value.hint
        assert len(double.server.asked) == before
        assert generator.version == checkpoint.version
        generator.close()


def test_an_engine_s_room_must_hold_the_completion_of_a_request_s_own_policy(checkpoint: TinyCheckpoint) -> None:
    prompt = (20,) * 20
    weights = checkpoint.weights(GenerationPolicy(8))
    asked = [GenerationRequest(prompt, 1), GenerationRequest(prompt, 1, GenerationPolicy(4))]
    assert [row.limit for row in make_rows(asked, weights, 28, 0)] == [8, 4]
    with pytest.raises(ProtocolViolationError) as refused:
        make_rows([*asked, GenerationRequest(prompt, 1, GenerationPolicy(9))], weights, 28, 0)
    assert "29 or more" in refused.value.hint


class Noting(SglangGenerator):
    """Notes by whom each request is drawn: True where by SGLang itself."""

    def request_body(self, *given: Any, **named: Any) -> dict[str, Any]:
        body = super().request_body(*given, **named)
        self.__dict__.setdefault("natively", []).append(body["custom_logit_processor"] is None)
        return body

    def take(self) -> set[bool]:
        noted: list[bool] = self.__dict__.pop("natively", [])
        return set(noted)


def test_sglang_draws_by_itself_only_while_no_row_of_ours_can_be_in_its_batch(
    checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    """One that our processor draws would send all of a batch through a path whose noise is of sorted columns."""
    other = TinyCheckpoint.save(tmp_path / "other", seed=6)
    untruncated, all_kinds = mixed((None, PLAIN, SHORT)), mixed(FOR_ENGINES)
    with EngineDouble.of("sglang", checkpoint.folder, "--enable-deterministic-inference") as double:
        options = EngineOptions("sglang", url=double.url, native_sampling=True, max_concurrent=4)
        generator = Noting(double.url, options, numerics_class="of-a-double", retry_s=0.0)
        generator.serve(checkpoint.weights(DEFAULT))
        for asked, natively in ((untruncated, True), (all_kinds, False), (untruncated, False)):
            assert by_index(list(generator.generate(asked, lambda: False))) == alone(checkpoint, asked)
            assert generator.take() == {natively}
        generator.serve(other.weights(DEFAULT))
        assert by_index(list(generator.generate(untruncated, lambda: False))) == alone(other, untruncated)
        assert generator.take() == {True}
        generator.close()


@pytest.mark.parametrize(
    ("policy", "native", "why"),
    [
        (PENALISED, False, "repetition penalty"),
        (NO_POLICIES[0], False, "no such sampling policy"),
        (COOL, True, "top-k"),
        (NUCLEUS, True, "top-p"),
    ],
    ids=str,
)
def test_a_server_of_ours_is_not_even_started_for_a_policy_it_cannot_follow(
    checkpoint: TinyCheckpoint, policy: GenerationPolicy, native: bool, why: str
) -> None:
    options = EngineOptions("sglang", python=Path("/nowhere"), native_sampling=native)

    def make_client(url: str, key: str) -> RemoteGenerator:
        raise AssertionError("no server, and so no client")

    generator = SupervisedGenerator(options, make_client, numerics_class="class")
    generator._wanted = checkpoint.weights(DEFAULT)  # as after a server's death
    with pytest.raises(ProtocolViolationError, match=why):
        list(generator.generate([*requests(), GenerationRequest((20, 21), 1, policy)], lambda: False))
    generator.close()
