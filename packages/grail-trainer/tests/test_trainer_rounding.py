"""Promises of stochastic rounding: without bias, without lost steps, and the same bits wherever and however it is computed."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from grail_trainer.learning import rounding
from grail_trainer.learning.counter_random import halves, key_of, uniform, words
from grail_trainer.learning.rounding import StochasticAdamW, round_stochastically
from tooling.testing.rounding_ranks import SHAPES, stepped
from tooling.testing.rounding_ranks import drawn as drawn_of

DRAWS = 1 << 14
STANDARD_ERRORS = 5


def drawn(value: float, key: int) -> torch.Tensor:
    """Many roundings of one value, float64."""
    return round_stochastically(torch.full((DRAWS,), value), halves(key, 0, DRAWS)).double()


def neighbours(value: float) -> tuple[float, float]:
    """The two numbers of bfloat16 beside a float32, the nearer to zero first."""
    raw = torch.tensor(value).view(torch.int32) & ~0xFFFF
    low, high = raw.view(torch.float32).item(), (raw + 0x10000).view(torch.float32).item()
    return low, high


@pytest.mark.parametrize("value", [1.001, -1.001, 0.3, 3.14159e-5, -7.7e-39, 1.00390625 - 2**-23, 123456.789, 2.9e38])
def test_the_mean_of_many_roundings_is_the_value(value: float) -> None:
    exact = torch.tensor(value).item()
    low, high = neighbours(value)
    results = drawn(value, key_of("mean", value))
    assert {*results.tolist()} <= {low, high}
    up = (exact - low) / (high - low)
    error = abs(high - low) * math.sqrt(up * (1 - up) / DRAWS)
    assert abs(results.mean().item() - exact) <= STANDARD_ERRORS * error


def test_over_many_values_there_is_no_bias_either() -> None:
    values = uniform(key_of("values"), DRAWS) * 4
    off = round_stochastically(values, halves(key_of("bias"), 0, DRAWS)).double() - values.double()
    assert off.abs().max() < 2**-6  # a last place of numbers below 4
    assert abs(off.mean().item()) <= STANDARD_ERRORS * off.std().item() / math.sqrt(DRAWS)
    nearest = values.to(torch.bfloat16).double() - values.double()
    assert (values.to(torch.bfloat16) != round_stochastically(values, halves(key_of("bias"), 0, DRAWS))).float().mean() > 0.1
    assert off.std() > nearest.std()  # it pays for that in spread


@given(st.floats(width=32), st.integers(0, 0xFFFF))
@settings(max_examples=300)
def test_every_float_becomes_one_of_its_neighbours_and_never_another_kind(value: float, bits: int) -> None:
    got = round_stochastically(torch.tensor([value]), torch.tensor([bits], dtype=torch.int32))
    assert got.dtype is torch.bfloat16
    number = got.float().item()
    if math.isnan(value):
        assert math.isnan(number)
    elif math.isinf(value):
        assert number == value
    else:
        assert math.isfinite(number)
        assert math.copysign(1, number) == math.copysign(1, value)
        low, high = neighbours(value)
        assert number in (low, high) or abs(value) > torch.finfo(torch.bfloat16).max
        if torch.tensor(value).to(torch.bfloat16).float().item() == value:
            assert number == value


def test_a_nan_of_low_bits_alone_stays_one() -> None:
    for raw in (0x7F800001, 0x7FFFFFFF, -1):
        value = torch.tensor([raw], dtype=torch.int32).view(torch.float32)
        for bits in (0, 0xFFFF):
            assert round_stochastically(value, torch.tensor([bits], dtype=torch.int32)).isnan().all()


@given(st.integers(0, 9), st.integers(1, 40), st.integers(0, 40))
def test_bits_depend_on_key_and_index_alone(first: int, count: int, cut: int) -> None:
    whole, key = halves(77, first, count), 77
    cut = min(cut, count)
    assert torch.equal(whole, torch.cat([halves(key, first, cut), halves(key, first + cut, count - cut)]))
    assert int(whole.min()) >= 0
    assert int(whole.max()) <= 0xFFFF
    assert not torch.equal(halves(78, first, 64), halves(key, first, 64))


def test_words_are_those_of_splitmix64() -> None:
    """Against the definition in whole numbers, and with every bit set about half of the time."""

    def defined(key: int, index: int) -> int:
        z = (key + index * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    for key in (0, 5, 2**64 - 1, key_of("any")):
        got = [value % 2**64 for value in words(key, 2**40, 50).tolist()]
        assert got == [defined(key, 2**40 + index) for index in range(50)]
    many = words(key_of("bits"), 0, DRAWS)
    for bit in range(64):
        share = (many >> bit & 1).double().mean().item()
        assert abs(share - 0.5) <= STANDARD_ERRORS * 0.5 / math.sqrt(DRAWS)


def optimiser_of(parameter: torch.nn.Parameter, rate: float, seed: int = 0, decay: float = 0.0) -> StochasticAdamW:
    group = {"params": [parameter], "names": ["weight"], "weight_decay": decay}
    return StochasticAdamW([group], lr=rate, betas=(0.9, 0.99), eps=1e-8, seed=seed)


def test_steps_that_nearest_rounding_loses_arrive() -> None:
    """A step of 1e-4 from 1.0, where the last place of bfloat16 is 39 times as much."""
    count, steps, rate = 4096, 200, 1e-4
    stochastic = torch.nn.Parameter(torch.ones(count, dtype=torch.bfloat16))
    nearest = torch.nn.Parameter(torch.ones(count, dtype=torch.bfloat16))
    ours, theirs = optimiser_of(stochastic, rate), torch.optim.AdamW([nearest], lr=rate, weight_decay=0.0, foreach=False)
    for _ in range(steps):
        stochastic.grad = torch.ones(count, dtype=torch.bfloat16)
        nearest.grad = torch.ones(count, dtype=torch.bfloat16)
        ours.step()
        theirs.step()
    assert (nearest == 1).all()
    place = 2**-8
    error = math.sqrt(steps * rate * place / count)  # a step's variance is at most rate · place
    assert abs(stochastic.double().mean().item() - (1 - steps * rate)) <= STANDARD_ERRORS * error


def test_a_step_is_that_of_adamw_in_float32_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight lands beside where float32 would have put it; in pieces of any size."""
    start, key = uniform(key_of("start"), 300).reshape(20, 15).to(torch.bfloat16), key_of("gradient")
    results = []
    for chunk in (7, 1 << 20):
        monkeypatch.setattr(rounding, "CHUNK", chunk)
        held = torch.nn.Parameter(start.clone())
        ours = optimiser_of(held, 1e-2, decay=0.1)
        for step in range(3):
            wide = torch.nn.Parameter(held.detach().float())
            theirs = torch.optim.AdamW([wide], lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, foreach=False)
            if step:
                moments = {name: value.clone() for name, value in ours.state[held].items()}
                theirs.state[wide] = moments
            wide.grad = uniform(key + step, 300).reshape(20, 15)
            held.grad = wide.grad.to(torch.bfloat16)
            wide.grad = held.grad.float()
            ours.step()
            theirs.step()
            low = (wide.detach().view(torch.int32) & ~0xFFFF).view(torch.float32)
            high = ((wide.detach().view(torch.int32) & ~0xFFFF) + 0x10000).view(torch.float32)
            assert ((held.float() == low) | (held.float() == high)).all()
            assert all(torch.equal(ours.state[held][name], theirs.state[wide][name]) for name in ("exp_avg", "exp_avg_sq"))
        results.append(held.detach().clone())
    assert torch.equal(results[0], results[1])


def test_another_seed_rounds_otherwise() -> None:
    results = []
    for seed in (0, 0, 1):
        held = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
        held.grad = torch.ones(64, dtype=torch.bfloat16)
        optimiser_of(held, 1e-3, seed).step()
        results.append(held.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.heavy
def test_two_processes_that_share_weights_by_rows_round_as_one(tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tooling.testing.rounding_ranks", str(rank), "2", str(tmp_path / "store"), str(out)]
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    alone = {name: torch.nn.Parameter(drawn_of(name, 0).to(torch.bfloat16)) for name in SHAPES}
    stepped(alone)
    shared = load_file(out)
    assert all(torch.equal(shared[name], parameter) for name, parameter in alone.items())
