"""The engines' own interfaces, driven step by step as their schedulers drive them, give the network's tokens at every position.

The bases are not installed here: what stands in for them are facts of vLLM 0.32 and 0.33 and of SGLang 0.5.23 (names of
classes, arguments and fields). `hatch run conformance` drives the same classes in real engines.
"""

from __future__ import annotations

import abc
import enum
import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from grail_core.generation.plugin import FOLDER, ROUNDED_HEAD_ALLOWED, SGLANG_PROCESSOR, VLLM_PROCESSOR, drawing_keys
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy

sys.path.append(str(FOLDER))  # as an engine finds it
import grail_seeded_sampling as plugin

VOCABULARY = 300
POLICY = GenerationPolicy(64, temperature=0.8, top_k=60, top_p=0.9)


class Direction(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class V1Base(abc.ABC):
    @abc.abstractmethod
    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None: ...
    @abc.abstractmethod
    def apply(self, logits: torch.Tensor) -> torch.Tensor: ...
    @abc.abstractmethod
    def is_argmax_invariant(self) -> bool: ...
    @abc.abstractmethod
    def update_state(self, batch_update: Any) -> None: ...


class V2Base(abc.ABC):
    @abc.abstractmethod
    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor: ...


class SglangBase(abc.ABC):
    @abc.abstractmethod
    def __call__(self, logits: torch.Tensor, custom_param_list: list[dict[str, Any]] | None = None) -> torch.Tensor: ...


class Abort:
    def __init__(self, message: str, status_code: int, err_type: str) -> None:
        self.message, self.status_code = message, status_code


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules: dict[str, dict[str, Any]] = {
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": V1Base},
        "vllm.v1.worker.gpu.sample.logits_processor": {"LogitsProcessor": V2Base},
        "sglang.srt.managers.schedule_batch": {"FINISH_ABORT": Abort},
        "sglang.srt.sampling.custom_logit_processor": {"CustomLogitProcessor": SglangBase},
    }
    for name, contents in modules.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        vars(sys.modules[name]).update(contents)
    yield
    for made in ("GrailLogitsProcessor", "GrailCustomLogitProcessor"):
        vars(plugin).pop(made, None)


@dataclass
class Params:
    """vLLM's SamplingParams, as far as it is looked at."""

    extra_args: dict[str, Any] | None
    temperature: float = 0.0
    n: int = 1
    min_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    bad_words: list[str] | None = None


@dataclass
class Request:
    """A row as both engines know it, and what the network would draw for it."""

    seed: int
    prompt: list[int]
    policy: GenerationPolicy = POLICY
    output: list[int] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)

    @property
    def params(self) -> Params:
        return Params(drawing_keys(self.policy, self.seed))

    def logits(self, position: int) -> np.ndarray:
        """What a model would give at this position: a function of the row's own past alone."""
        rng = np.random.default_rng([self.seed, position])
        found: np.ndarray = rng.normal(0, 3, VOCABULARY).astype(np.float32)
        return found

    def take(self, row: torch.Tensor) -> None:
        """The engine's greedy choice becomes the next token, and must be the network's."""
        position = len(self.prompt) + len(self.drawn) - 1
        want = SeededSampler(self.policy).sample(
            self.logits(position)[None], np.array([self.seed], np.uint64), np.array([position], np.uint32)
        )
        assert int(row.argmax()) == int(want[0])
        assert int(torch.isfinite(row).sum()) == 1
        self.drawn.append(int(row.argmax()))


def requests() -> list[Request]:
    other = GenerationPolicy(64, temperature=1.3)
    return [Request(100 + i, list(range(3 + 5 * i)), other if i == 2 else POLICY) for i in range(4)]


def stacked(batch: list[Request]) -> torch.Tensor:
    return torch.from_numpy(np.stack([row.logits(len(row.prompt) + len(row.drawn) - 1) for row in batch]))


def update(size: int, removed: Any = (), added: Any = (), moved: Any = ()) -> SimpleNamespace:
    return SimpleNamespace(batch_size=size, removed=removed, added=added, moved=moved)


def vllm_v1(config: Any = None) -> Any:
    return getattr(plugin, VLLM_PROCESSOR.partition(":")[2])(
        config or SimpleNamespace(speculative_config=None), torch.device("cpu"), False
    )


def test_vllm_v1_draws_by_the_networks_rule_while_rows_come_go_and_move() -> None:
    a, b, c, d = requests()
    processor = vllm_v1()
    assert not processor.is_argmax_invariant()

    def step(change: Any, batch: list[Request]) -> None:
        processor.update_state(change)
        found = processor.apply(logits := stacked(batch))
        assert found is logits
        for request, row in zip(batch, found, strict=True):
            request.take(row)
            request.output.append(-1)  # asynchronous scheduling: a placeholder, which the token replaces later

    step(update(2, added=[(0, a.params, a.prompt, a.output), (1, b.params, b.prompt, b.output)]), [a, b])
    step(None, [a, b])
    step(update(3, added=[(2, c.params, c.prompt, c.output)]), [a, b, c])
    step(update(3, moved=[(0, 2, Direction.SWAP)]), [c, b, a])
    # b ends; d takes its row, a is moved into the hole that c leaves.
    step(update(2, removed=[1, 0], added=[(1, d.params, d.prompt, d.output)], moved=[(2, 0, Direction.UNIDIRECTIONAL)]), [a, d])
    b.output = list(b.drawn)  # preempted and resumed: another list with the tokens so far
    step(update(3, added=[(2, b.params, b.prompt, b.output)]), [a, d, b])
    step(None, [a, d, b])
    processor.update_state(update(0, removed=[2, 1, 0]))
    assert processor.apply(torch.zeros(0, VOCABULARY)).shape == (0, VOCABULARY)


def test_vllm_v1_draws_a_long_prompts_first_token_at_its_end_though_it_came_in_chunks() -> None:
    a, b, *_ = requests()
    processor = vllm_v1()
    processor.update_state(update(2, added=[(0, a.params, a.prompt, a.output), (1, b.params, b.prompt, b.output)]))
    for _ in range(3):  # a draws while chunks of b's prompt are computed, whose rows are thrown away
        row = processor.apply(stacked([a, b]))[0]
        a.take(row)
        a.output.append(a.drawn[-1])
        processor.update_state(None)
    b.take(processor.apply(stacked([a, b]))[1])


def test_vllm_v1_stops_rather_than_draw_for_rows_it_does_not_know() -> None:
    a, b, *_ = requests()
    processor = vllm_v1()
    with pytest.raises(RuntimeError, match="never announced"):
        processor.update_state(update(2, added=[(0, a.params, a.prompt, a.output)]))
    processor.update_state(update(1, added=[(0, a.params, a.prompt, a.output)]))
    with pytest.raises(RuntimeError, match="2 rows of logits for 1 requests"):
        processor.apply(stacked([a, b]))
    with pytest.raises(ValueError, match="embeddings"):
        processor.update_state(update(2, added=[(1, b.params, None, b.output)]))


class Slots:
    """vLLM's V2 runner: requests live in slots, and each step's rows come in any order."""

    def __init__(self, count: int) -> None:
        states = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=count, vocab_size=VOCABULARY)
        self.processor = plugin.GrailLogitsProcessor(SimpleNamespace(speculative_config=None), states)

    def apply(self, batch: list[tuple[int, Request]]) -> torch.Tensor:
        slots = np.array([slot for slot, _ in batch], np.int32)
        context = SimpleNamespace(
            idx_mapping_np=slots,
            idx_mapping=torch.from_numpy(slots),
            expanded_idx_mapping=torch.from_numpy(slots),
            pos=torch.tensor([len(row.prompt) + len(row.drawn) - 1 for _, row in batch]),
        )
        found: torch.Tensor = self.processor.apply(stacked([row for _, row in batch]), context)
        return found


def test_vllm_v2_draws_by_the_networks_rule_while_slots_are_reused() -> None:
    a, b, c, d = requests()
    slots = Slots(8)
    for batch in ([(5, a), (2, b)], [(2, b), (5, a)], [(5, a), (0, c), (2, b)], [(2, d), (0, c)], [(0, c), (5, b)]):
        for slot, request in batch:
            assert slots.processor.add_request(slot, request.params)
        slots.processor.apply_staged_writes()
        for (_, request), row in zip(batch, slots.apply(batch), strict=True):
            request.take(row)


def test_vllm_v2_leaves_the_rows_of_the_engines_own_warm_up_as_they_are() -> None:
    a, b, c, _ = requests()
    slots = Slots(4)
    assert not slots.processor.add_request(1, Params(None, temperature=0.9))
    slots.processor.apply_staged_writes()
    assert torch.equal(slots.apply([(1, b)]), stacked([b]))
    slots.processor.add_request(3, a.params)
    slots.processor.add_request(0, c.params)  # without truncation
    slots.processor.apply_staged_writes()
    before = stacked([a, b, c])
    found = slots.apply([(3, a), (1, b), (0, c)])
    assert torch.equal(found[1], before[1])
    a.take(found[0])
    c.take(found[2])


@pytest.mark.parametrize(
    "change",
    [
        {"extra_args": None},
        {"extra_args": {"grail_seed": "1"}},
        {"temperature": 0.8},
        {"n": 2},
        {"min_tokens": 3},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"logit_bias": {5: 3.0}},
        {"bad_words": ["no"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_vllm_refuses_a_request_that_would_be_drawn_otherwise(change: dict[str, Any]) -> None:
    params = requests()[0].params
    plugin.GrailLogitsProcessor.validate_params(params)
    for name, value in change.items():
        setattr(params, name, value)
    with pytest.raises(ValueError, match=r"grail_|engine's own|cannot be used"):
        plugin.GrailLogitsProcessor.validate_params(params)


def test_an_engine_that_drafts_tokens_does_not_start() -> None:
    with pytest.raises(RuntimeError, match="speculative"):
        vllm_v1(SimpleNamespace(speculative_config=object()))


@dataclass
class Kv:
    kv_committed_len: int = 0


class SglangRequest:
    """SGLang's Req, with the overlapped scheduler: a pass is launched before the last pass's token is appended."""

    def __init__(self, row: Request) -> None:
        self.row, self.origin_input_ids, self.kv = row, row.prompt, Kv()
        self.output_ids: list[int] = []
        self.to_finish: Abort | None = None
        self.sampling_params = SimpleNamespace(n=1, min_new_tokens=0, repetition_penalty=1.0, logit_bias=None)
        self.said = {**drawing_keys(row.policy, row.seed), "__req__": self}

    def launched(self) -> None:
        self.kv.kv_committed_len = len(self.row.prompt) + len(self.row.drawn)


def sglang() -> Any:
    """As SGLang loads it: from what a client sends."""
    return pickle.loads(bytes.fromhex(json.loads(SGLANG_PROCESSOR)["callable"]))()


@pytest.mark.parametrize("overlapped", [True, False])
def test_sglang_draws_by_the_networks_rule_though_its_lists_may_lag(overlapped: bool) -> None:
    rows = [SglangRequest(row) for row in requests()]
    processor = sglang()
    for batch in ([0, 1], [1, 0], [0, 1, 2], [2, 0], [3, 2], [0, 3]):
        chosen = [rows[index] for index in batch]
        for request in chosen:
            request.launched()
        found = processor(stacked([request.row for request in chosen]), [request.said for request in chosen])
        for request, row in zip(chosen, found, strict=True):
            if overlapped:
                request.output_ids = list(request.row.drawn)
            request.row.take(row)
            if not overlapped:
                request.output_ids = list(request.row.drawn)
    # Retracted, then computed again from prompt and tokens so far.
    again = rows[1]
    again.output_ids = list(again.row.drawn)
    again.launched()
    again.row.take(processor(stacked([again.row]), [again.said])[0])
    assert all(request.to_finish is None for request in rows)


def test_sglang_ends_a_bad_request_alone() -> None:
    good, bad, lost, biased = (SglangRequest(row) for row in requests())
    del bad.said["grail_seed"]
    biased.sampling_params.repetition_penalty = 1.2
    for request in (good, bad, lost, biased):
        request.launched()
    lost.kv.kv_committed_len += 5  # drafted tokens, or a session's
    batch = (good, bad, lost, biased)
    found = sglang()(stacked([request.row for request in batch]), [request.said for request in batch])
    good.row.take(found[0])
    assert good.to_finish is None
    assert bad.to_finish is not None
    assert lost.to_finish is not None
    assert "grail_seed" in bad.to_finish.message
    assert bad.to_finish.status_code == 400
    assert "positions" in lost.to_finish.message
    assert biased.to_finish is not None
    assert "repetition_penalty" in biased.to_finish.message


def test_sglang_with_several_rows_a_request_is_refused() -> None:
    request = SglangRequest(requests()[0])
    request.launched()
    with pytest.raises(RuntimeError, match="speculative"):
        sglang()(stacked([request.row, request.row]), [request.said, request.said])


def test_sglang_makes_the_class_anew_for_each_batch_and_the_device_is_checked_once(capfd: pytest.CaptureFixture[str]) -> None:
    for row in requests():
        request = SglangRequest(row)
        request.launched()
        sglang()(stacked([row]), [request.said])
    assert capfd.readouterr().err.count("drawing by seed in SGLang on cpu") == 1


def test_logits_that_were_rounded_to_bf16_stop_the_engine_unless_the_class_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin.ROUNDED_HEAD_ALLOWED == ROUNDED_HEAD_ALLOWED
    request = SglangRequest(requests()[0])
    request.launched()
    rounded = stacked([request.row]).to(torch.bfloat16).to(torch.float32)
    with pytest.raises(RuntimeError, match="--enable-fp32-lm-head"):
        sglang()(rounded.clone(), [request.said])
    a = request.row
    processor = vllm_v1()
    processor.update_state(update(1, added=[(0, a.params, a.prompt, a.output)]))
    with pytest.raises(RuntimeError, match="head_dtype"):
        processor.apply(rounded.clone())
    monkeypatch.setenv(ROUNDED_HEAD_ALLOWED, "1")
    assert int(torch.isfinite(sglang()(rounded.clone(), [request.said])).sum()) == 1
