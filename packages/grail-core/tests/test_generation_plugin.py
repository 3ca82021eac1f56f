"""What is loaded into engines draws the tokens of the network's own sampler, row by row, whatever else is in the batch."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from grail_core.generation.plugin import FOLDER
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.rollouts.noise import gumbel_noise, murmur3_words

sys.path.append(str(FOLDER))  # as an engine finds it
import grail_seeded_draws as draws

POLICIES = [
    GenerationPolicy(8),
    GenerationPolicy(8, temperature=0.6),
    GenerationPolicy(8, temperature=1.7),
    GenerationPolicy(8, top_k=7),
    GenerationPolicy(8, top_k=1),
    GenerationPolicy(8, top_k=400),
    GenerationPolicy(8, top_p=0.9),
    GenerationPolicy(8, top_p=0.3, temperature=0.8),
    GenerationPolicy(8, top_p=1e-3),
    GenerationPolicy(8, temperature=0.9, top_p=0.95, top_k=20),
]


def drawn(
    policies: list[GenerationPolicy], logits: np.ndarray, seeds: np.ndarray, positions: np.ndarray, width: int | None = None
) -> list[int]:
    tokens = draws.sample(
        torch.from_numpy(logits.copy()),
        torch.from_numpy(seeds.view(np.int64).copy()),
        torch.from_numpy(positions.astype(np.int64)),
        torch.tensor([policy.temperature for policy in policies], dtype=torch.float64),
        torch.tensor([policy.top_k for policy in policies]),
        torch.tensor([policy.top_p for policy in policies], dtype=torch.float64),
        width=width,
    )
    return [int(token) for token in tokens]


def by_the_network(policies: list[GenerationPolicy], logits: np.ndarray, seeds: np.ndarray, positions: np.ndarray) -> list[int]:
    return [
        int(SeededSampler(policy).sample(logits[i : i + 1], seeds[i : i + 1], positions[i : i + 1])[0])
        for i, policy in enumerate(policies)
    ]


@given(
    numbers=st.integers(0, 2**32),
    policy=st.sampled_from(POLICIES),
    size=st.sampled_from([1, 2, 3, 64, 257, 1000]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 4.0, 300.0, 5e3]),
    rounded=st.booleans(),
    forbidden=st.booleans(),
)
@settings(max_examples=150)
def test_every_row_has_the_token_of_the_networks_sampler(
    numbers: int, policy: GenerationPolicy, size: int, spread: float, rounded: bool, forbidden: bool
) -> None:
    rng = np.random.default_rng(numbers)
    rows = int(rng.integers(1, 6))
    logits = rng.normal(0, spread, (rows, size)).astype(np.float32)
    if rounded:
        logits = np.round(logits)  # ties, at the borders of top-k and top-p too; −0 beside +0
    if forbidden:
        logits[rng.random(logits.shape) < 0.5] = -np.inf
    seeds, positions = rng.integers(0, 2**64, rows, dtype=np.uint64), rng.integers(0, 2**32, rows).astype(np.uint32)
    assert drawn([policy] * rows, logits, seeds, positions) == by_the_network([policy] * rows, logits, seeds, positions)


@pytest.mark.parametrize("size", [151_936, 50_257])
def test_a_real_vocabulary_that_is_no_multiple_of_the_chunk_is_drawn_from_whole(size: int) -> None:
    rng = np.random.default_rng(size)
    logits = rng.normal(0, 0.01, (3, size)).astype(np.float32)  # flat: the noise decides, so any token may win
    logits[1] = -1.1 * np.log(rng.permutation(size) + 1.0)
    seeds, positions = rng.integers(0, 2**63, 3, dtype=np.uint64), np.array([0, 12_000, 2**32 - 1], np.uint32)
    for policy in (POLICIES[1], POLICIES[6], POLICIES[9]):
        assert drawn([policy] * 3, logits, seeds, positions) == by_the_network([policy] * 3, logits, seeds, positions)


def test_a_nucleus_wider_than_the_first_candidates_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 0.1, (4, 3000)).astype(np.float32)
    logits[1] *= 300  # its nucleus is a handful of tokens
    seeds, positions = rng.integers(0, 2**63, 4, dtype=np.uint64), np.arange(4, dtype=np.uint32)
    want = by_the_network([POLICIES[6]] * 4, logits, seeds, positions)
    looked_at, best_of = set(), draws._best_of

    def counted(keys: torch.Tensor, *more: Any) -> Any:
        looked_at.add(keys.shape[1])
        return best_of(keys, *more)

    monkeypatch.setattr(draws, "_sorts_as_fast", lambda x: False)
    monkeypatch.setattr(draws, "_best_of", counted)
    assert drawn([POLICIES[6]] * 4, logits, seeds, positions) == want
    assert looked_at == {draws._NARROW, 3000}


def test_what_else_is_in_the_batch_changes_no_rows_token() -> None:
    rng = np.random.default_rng(4)
    policies = [POLICIES[i % len(POLICIES)] for i in range(40)]
    logits = rng.normal(0, 3, (40, 700)).astype(np.float32)
    seeds, positions = rng.integers(0, 2**64, 40, dtype=np.uint64), rng.integers(0, 9000, 40).astype(np.uint32)
    together = drawn(policies, logits, seeds, positions)
    alone = [drawn([policies[i]], logits[i : i + 1], seeds[i : i + 1], positions[i : i + 1])[0] for i in range(40)]
    order = rng.permutation(40)
    shuffled = drawn([policies[i] for i in order], logits[order], seeds[order], positions[order])
    assert together == alone == [shuffled[list(order).index(i)] for i in range(40)]
    assert together == by_the_network(policies, logits, seeds, positions)


def test_a_row_without_a_finite_maximum_gives_the_same_id_everywhere_and_disturbs_no_other() -> None:
    logits = np.random.default_rng(5).normal(0, 2, (6, 300)).astype(np.float32)
    logits[1, [7, 200]] = np.nan
    logits[2] = -np.inf
    logits[3, [90, 30]] = np.inf
    logits[4, :] = np.nan
    seeds, positions = np.arange(6, dtype=np.uint64), np.arange(6, dtype=np.uint32)
    for policy in POLICIES:
        tokens = drawn([policy] * 6, logits, seeds, positions)
        assert tokens[1:5] == [7, 0, 30, 0]
        assert tokens == by_the_network([policy] * 6, logits, seeds, positions)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        there = {given.data_ptr() for given in args if isinstance(given, torch.Tensor)}  # a view shares what it is of
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and one.data_ptr() not in there:
                self.elements = max(self.elements, one.numel())
        return made


@pytest.mark.parametrize("policy", [POLICIES[1], POLICIES[5], POLICIES[6], POLICIES[9]], ids=["plain", "k", "p", "k and p"])
def test_what_is_worked_on_at_once_stays_bounded_however_large_the_batch(policy: GenerationPolicy) -> None:
    rows, size = 64, 20_000
    logits = torch.randn(rows, size)
    words = torch.arange(rows)
    temperature, top_p = (torch.full((rows,), value, dtype=torch.float64) for value in (policy.temperature, policy.top_p))
    with Largest() as largest:
        draws.sample(logits, words, words, temperature, torch.full((rows,), policy.top_k), top_p)
    assert size < largest.elements <= draws._CHUNK_ON_CPU


@pytest.mark.parametrize("seed", [1234, -7, 2**63 - 5, 0, 2**64 - 1, -(2**63)])
def test_hash_and_noise_are_the_protocols(seed: int) -> None:
    ids = np.array([0, 1, 2, 3, 151_935, 2**31 - 1])
    position = 4_000_000_007
    word = torch.tensor([draws._signed(seed)])
    state = draws._prefix(word, torch.tensor([position]))
    h = draws._hashed(state, draws._scrambled(torch.from_numpy(ids.astype(np.int32))))
    assert (h.to(torch.int64) & 0xFFFFFFFF).tolist() == [murmur3_words(seed, position, ids).tolist()]
    np.testing.assert_allclose(draws._noise(h).numpy()[0], gumbel_noise(seed, position, ids), rtol=0, atol=1e-12)


def test_a_device_that_computes_another_noise_is_not_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    draws.check_device("cpu")
    monkeypatch.setattr(draws, "_noise", lambda h: -(-(h.to(torch.float32) / 2**32).log()).log().to(torch.float64))
    with pytest.raises(RuntimeError, match="section 4"):
        draws.check_device("cpu")


def test_a_token_of_the_lowest_hash_wins_only_where_its_logit_says_so() -> None:
    # No hash of 0 is known for small ids, so the score is asked for as the sampler adds it up.
    noise = draws._noise(torch.tensor([0, -1], dtype=torch.int32))
    assert noise.tolist() == pytest.approx([-709.782712893384, 22.18070977791825], abs=1e-9)


def test_only_the_chosen_token_is_left_finite_and_in_place() -> None:
    logits = torch.randn(3, 50)
    kept = logits[1].clone()
    forced = draws.force(logits, torch.tensor([4, 0, 49]), torch.tensor([True, False, True]))
    assert forced is logits
    assert torch.equal(logits[1], kept)
    assert logits.argmax(dim=1)[[0, 2]].tolist() == [4, 49]
    assert torch.isfinite(logits[[0, 2]]).sum(dim=1).tolist() == [1, 1]
    assert torch.isfinite(draws.force(torch.randn(2, 9), torch.tensor([8, 0]))).sum().item() == 2


GOOD = {"grail_seed": "12", "grail_temperature": 1, "grail_top_k": -1, "grail_top_p": 0.95}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("grail_seed", value) for value in (12, "", "1e3", " 1", "1_0", "٣", str(2**64), str(-(2**63) - 1), "9" * 99, None)],
        *[
            ("grail_temperature", value)
            for value in (0, -1.0, float("nan"), float("inf"), True, "1", 1e-60, 1e60, 10**400, None)
        ],
        *[("grail_top_k", value) for value in (0, -2, 1.5, 2**31, 10**400, True, "5", float("nan"))],
        *[("grail_top_p", value) for value in (0, 1.1, -0.1, float("nan"), True, "1")],
    ],
)
def test_a_request_that_does_not_say_how_it_is_drawn_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        draws.drawing_of({**GOOD, key: value})
    with pytest.raises(ValueError, match=key):
        draws.drawing_of({other: said for other, said in GOOD.items() if other != key})


def test_what_a_client_sends_is_what_is_read() -> None:
    from grail_core.generation.plugin import drawing_keys

    policy = GenerationPolicy(8, temperature=0.7, top_k=40, top_p=0.9)
    read = draws.drawing_of(json.loads(json.dumps(drawing_keys(policy, 2**63 - 1))))
    assert (read.seed, read.top_k) == (2**63 - 1, 40)
    assert np.array(read[2:], np.int64).view(np.float64).tolist() == [0.7, 0.9]
    with pytest.raises(ValueError, match="repetition penalty"):
        drawing_keys(GenerationPolicy(8, repetition_penalty=1.1), 1)
