"""Whatever an engine does wrong to its draws is seen, and told by its name; one that does nothing wrong conforms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from grail_core.errors import EngineError
from grail_core.generation.base import Completion, Drawn, GenerationRequest, ServedWeights
from grail_core.generation.hf import HfGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.model.sampling import Floats, SeededSampler
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.rollouts.noise import gumbel_noise
from grail_miner.conformance.report import ConformanceReport, lines, to_json
from grail_miner.conformance.run import Verifier, collect, conformance, probes_for, rendered_again
from tooling.testing.models.tiny_qwen2 import BYTES, END_TOKEN_ID, save_byte_model

POLICY = GenerationPolicy(24, temperature=0.7)
ENDS = frozenset({END_TOKEN_ID, 10, 32, 99})
FOLDER = GenerationPolicy(24, temperature=0.4, top_k=5, top_p=0.85)
GROUPS = 16


class Faulty(SeededSampler):
    """A sampler that is told other things than it should be."""

    def __init__(
        self,
        policy: GenerationPolicy = POLICY,
        *,
        seeds: Callable[[npt.NDArray[np.uint64]], npt.NDArray[np.uint64]] = lambda seeds: seeds,
        positions: Callable[[npt.NDArray[np.uint32], npt.NDArray[np.uint64]], npt.NDArray[np.uint32]] = lambda at, seeds: at,
        logits: Callable[[Floats], Floats] = lambda rows: rows,
    ) -> None:
        super().__init__(policy)
        self._seeds, self._positions, self._logits = seeds, positions, logits

    def sample(
        self,
        logits: Tensor | Floats,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        histories: Sequence[Sequence[int]] | None = None,
    ) -> npt.NDArray[np.int64]:
        rows = logits.numpy() if isinstance(logits, Tensor) else logits
        return super().sample(self._logits(rows), self._seeds(seeds), self._positions(positions, seeds), histories)


class Greedy(SeededSampler):
    def sample(
        self,
        logits: Tensor | Floats,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        histories: Sequence[Sequence[int]] | None = None,
    ) -> npt.NDArray[np.int64]:
        return np.asarray(np.asarray(logits).argmax(axis=1), dtype=np.int64)


class ByRank(SeededSampler):
    """Top-k by sorting, and the hash over the sorted columns, as an engine's own seeded sampling has it."""

    def sample(
        self,
        logits: Tensor | Floats,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        histories: Sequence[Sequence[int]] | None = None,
    ) -> npt.NDArray[np.int64]:
        drawn = []
        for row, seed, position in zip(np.asarray(logits), seeds.tolist(), positions.tolist(), strict=True):
            order = np.argsort(-row, kind="stable")
            scores = row[order] / np.float32(self.policy.temperature) + gumbel_noise(seed, position, np.arange(len(row)))
            drawn.append(order[int(scores.argmax())])
        return np.array(drawn, dtype=np.int64)


class Engine:
    """A backend that answers with what a sampler of its own draws. `change` makes other answers of them."""

    numerics_class = "bf16-sdpa-cpu-transformers"

    def __init__(
        self,
        model: PolicyModel,
        sampler: SeededSampler,
        *,
        ends: frozenset[int] = ENDS,
        prompt: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda prompt: prompt,
        change: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda tokens: tokens,
    ) -> None:
        self._hf = HfGenerator(model, sampler.policy, ends, sampler=sampler)
        self._prompt, self._change = prompt, change
        self.version: str | None = "0" * 64

    def serve(self, weights: ServedWeights) -> None:
        self.version = weights.version

    def distrust(self) -> None:
        self.version = None

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        asked = [replace(request, prompt=self._prompt(request.prompt)) for request in requests]
        for index, done in reversed(list(enumerate(self._hf.generate(asked)))):
            yield Drawn(index, Completion(self._change(done.tokens)))

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> ServedWeights:
    # In float32, so that honest draws are all equal; firm opinions, so that what rounding a logit does is seen.
    folder = save_byte_model(tmp_path_factory.mktemp("model"), replace(BYTES, spread=0.3, tied=False))
    model = PolicyModel.load(folder, dtype="float32")
    return ServedWeights("0" * 64, folder, POLICY, ENDS, model.vocabulary_size, model.context_length, model)


def judged(weights: ServedWeights, engine: Engine, groups: int = GROUPS) -> ConformanceReport:
    assert weights.model is not None
    verifier = Verifier(weights.model, PromptRenderer(weights.folder), FOLDER)
    return conformance(engine, weights, verifier, probes_for(weights, verifier, groups))


def model_of(weights: ServedWeights) -> PolicyModel:
    assert weights.model is not None
    return weights.model


def names(report: ConformanceReport) -> list[str]:
    return [cause.name for cause in report.causes]


@pytest.mark.parametrize("policy", [POLICY, replace(POLICY, top_k=20, top_p=0.9), replace(POLICY, repetition_penalty=1.2)])
def test_an_engine_that_follows_the_protocol_conforms(weights: ServedWeights, policy: GenerationPolicy) -> None:
    weights = replace(weights, policy=policy)
    report = judged(weights, Engine(model_of(weights), SeededSampler(policy)))
    assert report.conforms
    assert report.reading.agreement == 1
    assert not report.causes
    assert report.same_again[0] == report.same_again[1]
    assert json.loads(json.dumps(to_json(report)))["conforms"] is True
    assert list(lines(report))[-1].strip() == "conforms"


def _fixed(seeds: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return np.full_like(seeds, 42)


def _other(policy: GenerationPolicy) -> SeededSampler:
    return SeededSampler(replace(policy, max_tokens=POLICY.max_tokens))


FAULTS: list[tuple[str, Callable[[], SeededSampler]]] = [
    ("greedy", lambda: Greedy(POLICY)),
    ("seed_default", lambda: Faulty(seeds=_fixed)),
    ("seed_cut", lambda: Faulty(seeds=lambda seeds: seeds & np.uint64(0xFFFFFFFF))),
    ("seed_rounded", lambda: Faulty(seeds=lambda seeds: seeds.astype(np.float64).astype(np.uint64))),
    ("position_off_by_one", lambda: Faulty(positions=lambda at, seeds: at + np.uint32(1))),
    ("position_off_by_one", lambda: Faulty(positions=lambda at, seeds: at - np.uint32(1))),
    ("temperature_twice", lambda: _other(replace(POLICY, temperature=0.49))),
    ("temperature_never", lambda: _other(replace(POLICY, temperature=1.0))),
    ("top_k_left_on", lambda: _other(replace(POLICY, top_k=20))),
    ("top_p_left_on", lambda: _other(replace(POLICY, top_p=0.9))),
    ("folder_followed", lambda: _other(FOLDER)),
    ("folder_followed", lambda: _other(replace(FOLDER, temperature=POLICY.temperature))),
    ("sorted_columns", lambda: ByRank(POLICY)),
]


@pytest.mark.parametrize(("name", "sampler"), FAULTS)
def test_a_fault_is_told_by_its_name(weights: ServedWeights, name: str, sampler: Callable[[], SeededSampler]) -> None:
    report = judged(weights, Engine(model_of(weights), sampler()))
    assert not report.conforms
    assert name in names(report), (report.reading.agreement, report.causes)
    told = [one for one in names(report) if one not in (name, "clones")]
    assert not told, "another fault is named beside it"
    assert report.broken()[0].index == min(int(row.lost[0]) for row in report.reading.rows if len(row.lost))


def test_truncation_that_is_not_applied_is_told(weights: ServedWeights) -> None:
    weights = replace(weights, policy=replace(POLICY, top_k=4))
    assert names(judged(weights, Engine(model_of(weights), SeededSampler(POLICY)))) == ["truncation_never"]


def test_positions_that_count_the_completion_alone_are_told(weights: ServedWeights) -> None:
    verifier = Verifier(model_of(weights), PromptRenderer(weights.folder), None)
    lengths = {r.sampling_seed: len(r.prompt) for r in probes_for(weights, verifier, GROUPS).requests}

    def without_prompt(at: npt.NDArray[np.uint32], seeds: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
        return (at - np.array([lengths[seed] - 1 for seed in seeds.tolist()], dtype=np.uint32)).astype(np.uint32)

    report = judged(weights, Engine(model_of(weights), Faulty(positions=without_prompt)))
    assert names(report) == ["position_without_prompt"]


def test_a_default_seed_makes_clones_of_groups_and_is_told(weights: ServedWeights) -> None:
    report = judged(weights, Engine(model_of(weights), Faulty(seeds=lambda seeds: np.full_like(seeds, 987654321))))
    assert names(report) == ["clones", "other_noise"]
    assert names(judged(weights, Engine(model_of(weights), Faulty(seeds=_fixed)))) == ["clones", "seed_default"]


def test_the_seed_of_a_groups_first_rollout_for_all_is_told(weights: ServedWeights) -> None:
    verifier = Verifier(model_of(weights), PromptRenderer(weights.folder), None)
    probes = probes_for(weights, verifier, GROUPS)
    first = {
        r.sampling_seed: probes.requests[2 * group].sampling_seed
        for r, group in zip(probes.requests, probes.group_of, strict=True)
    }

    def of_first(seeds: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return np.array([first[seed] for seed in seeds.tolist()], dtype=np.uint64)

    assert names(judged(weights, Engine(model_of(weights), Faulty(seeds=of_first)))) == ["clones", "seed_of_the_group"]


def test_an_engine_that_draws_anew_each_time_is_told(weights: ServedWeights) -> None:
    chance = np.random.default_rng(1)
    sampler = Faulty(seeds=lambda seeds: chance.integers(0, 2**63, len(seeds), dtype=np.uint64))
    assert names(judged(weights, Engine(model_of(weights), sampler))) == ["seed_ignored"]


def test_a_head_that_rounds_is_told_from_honest_numerics(weights: ServedWeights) -> None:
    def rounded(rows: Floats) -> Floats:
        return torch.from_numpy(np.array(rows)).to(torch.bfloat16).float().numpy()

    report = judged(weights, Engine(model_of(weights), Faulty(logits=rounded)), groups=160)
    assert names(report) == ["head_rounded"]
    assert 0.9 < report.reading.agreement < 1


def test_numerics_that_drift_narrowly_are_called_numerics(weights: ServedWeights) -> None:
    chance = np.random.default_rng(1)

    def drifting(rows: Floats) -> Floats:
        return np.asarray(rows + chance.normal(0, 0.08, rows.shape), dtype=np.float32)

    report = judged(weights, Engine(model_of(weights), Faulty(logits=drifting)))
    assert not report.conforms
    assert names(report) == ["numerics"]


def test_other_weights_are_told(weights: ServedWeights, tmp_path: Path) -> None:
    other = PolicyModel.load(save_byte_model(tmp_path, replace(BYTES, spread=0.3, tied=False), seed=4), dtype="float32")
    assert names(judged(weights, Engine(other, SeededSampler(POLICY)))) == ["other_weights"]


def test_an_end_token_that_is_dropped_fails_though_all_tokens_agree(weights: ServedWeights) -> None:
    report = judged(
        weights,
        Engine(
            model_of(weights),
            SeededSampler(POLICY),
            change=lambda tokens: tokens[:-1] if len(tokens) > 1 and tokens[-1] in ENDS else tokens,
        ),
    )
    assert report.reading.agreement == 1
    assert not report.conforms
    assert names(report) == ["end_token_dropped"]


def test_an_engine_that_goes_on_after_an_end_token_is_told(weights: ServedWeights) -> None:
    report = judged(weights, Engine(model_of(weights), SeededSampler(POLICY), ends=frozenset()))
    assert not report.conforms
    assert names(report) == ["end_token_passed"]


def test_an_engine_with_a_lower_limit_is_told(weights: ServedWeights) -> None:
    report = judged(weights, Engine(model_of(weights), SeededSampler(replace(POLICY, max_tokens=16))))
    assert not report.conforms
    assert names(report) == ["cut_short"]


def test_a_prompt_that_is_encoded_again_is_told(weights: ServedWeights) -> None:
    again = rendered_again(weights.folder)

    def encoded_again(prompt: tuple[int, ...]) -> tuple[int, ...]:
        others = again(prompt)
        return others[0] if others else prompt

    report = judged(weights, Engine(model_of(weights), SeededSampler(POLICY), prompt=encoded_again))
    assert names(report) == ["prompt_encoded_again"]
    assert not report.conforms


def test_answers_that_are_missing_or_no_tokens_of_the_model_are_the_engines_failure(weights: ServedWeights) -> None:
    with pytest.raises(EngineError, match="token 70000"):
        judged(weights, Engine(model_of(weights), SeededSampler(POLICY), change=lambda tokens: (*tokens[:-1], 70_000)))

    class Silent(Engine):
        def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
            yield from list(super().generate(requests, cancelled))[1:]

    with pytest.raises(EngineError, match="answered 1 of 2"):
        collect(Silent(model_of(weights), SeededSampler(POLICY)), [GenerationRequest((1,), 1), GenerationRequest((2,), 2)])
