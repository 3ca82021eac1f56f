"""What proving and verifying cost on this device, and where the time goes.

The core brings the logits of every position that it looks at to main memory and finishes there: how much of a validator's time
that is stands beside each cost. r is the float32 pass over the bf16 pass, TF32 off; three bf16 products give the same
reference, since the weights that it multiplies by are bf16 ones and three bf16 numbers hold a float32 one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import prove_rollouts
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries.deviations.observation import Rollout
from tooling.studies.gpu_study.bench import Bench
from tooling.studies.gpu_study.device import Cost, cost_of, tf32
from tooling.studies.gpu_study.sections import Figures, Item, Section


class _Rows:
    """One proof batch of random tokens, as long as an answer: what it costs does not depend on what it says."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        amount = bench.amount
        generator = torch.Generator().manual_seed(7)
        size = (ROLLOUTS_PER_PROBLEM, amount.prompt + amount.speed_completion)
        rows = torch.randint(bench.model.vocabulary_size, size, generator=generator).tolist()
        self.rollouts = [Rollout(0, r, tuple(row), amount.prompt) for r, row in enumerate(rows)]
        self.rows = [r.tokens for r in self.rollouts]
        self.lengths = [amount.prompt] * ROLLOUTS_PER_PROBLEM
        self.tokens = size[0] * size[1]

    def cost(self, action: Any) -> Cost:
        return cost_of(self.bench.device, action, self.bench.amount.repeats)

    @cached_property
    def opened(self) -> Tensor:
        """The states that a validator applies the head to, [positions, d], of the model's own pass."""
        states = self.bench.model.hidden_states(self.rows)
        picked = [
            one[r.prompt_length + at - 1]
            for one, r in zip(states, self.rollouts, strict=True)
            for at in self.bench.setting.positions(r)
        ]
        return torch.stack(picked)


def _bodies(rows: _Rows) -> Figures:
    """One pass without the head in bf16, in float32, and in float32 by other means."""
    bench = rows.bench
    own = rows.cost(lambda: bench.model.hidden_states(rows.rows))
    figures: dict[str, Any] = {"bf16": own.to_json(rows.tokens)}
    wide = bench.validator.reference
    with tf32(False):
        exact = rows.cost(lambda: wide.hidden_states(rows.rows))
        states = torch.cat(wide.hidden_states(rows.rows[:2]))
        drift = torch.cat(bench.model.hidden_states(rows.rows[:2])).float() - states
        figures["float32"] = exact.to_json(rows.tokens)
        figures["r_float32"] = exact.seconds / own.seconds
        figures["drift_rms.bf16"] = _relative(drift, states)
    if bench.device.type == "cuda":
        with tf32(True):
            figures |= _against(rows, wide, "tf32", own, states)
    with tf32(False):
        for products in (2, 3):
            with split_products(wide, products):
                figures |= _against(rows, wide, f"bf16x{products}", own, states)
    return figures


def _against(rows: _Rows, wide: PolicyModel, name: str, own: Cost, exact: Tensor) -> dict[str, Any]:
    cost = rows.cost(lambda: wide.hidden_states(rows.rows))
    states = torch.cat(wide.hidden_states(rows.rows[:2]))
    return {
        name: cost.to_json(rows.tokens),
        f"r_{name}": cost.seconds / own.seconds,
        f"drift_rms.{name}": _relative(states - exact, exact),
    }


def _relative(difference: Tensor, of: Tensor) -> float:
    """RMS over positions of ‖difference‖ / ‖of‖: what a sketch's coordinate is off by."""
    ratios = torch.linalg.vector_norm(difference, dim=1) / torch.linalg.vector_norm(of, dim=1)
    return float(ratios.square().mean().sqrt())


@contextmanager
def split_products(model: PolicyModel, products: int) -> Iterator[None]:
    """The linear layers of a float32 model whose weights are bf16 numbers, by so many bf16 products with float32 sums."""
    layers = [part for part in model.base.modules() if isinstance(part, nn.Linear)]
    for layer in layers:
        split = partial(_split_linear, layer.weight.to(torch.bfloat16), layer.bias, products)
        layer.forward = split  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _split_linear(weight: Tensor, bias: Tensor | None, products: int, x: Tensor) -> Tensor:
    left = x.reshape(-1, x.shape[-1])
    total: Tensor | None = None
    for _ in range(products):
        part = left.to(torch.bfloat16)
        left = left - part.float()
        product = _wide_product(part, weight)
        total = product if total is None else total.add_(product)
    assert total is not None
    if bias is not None:
        total += bias
    return total.reshape(*x.shape[:-1], -1)


def _wide_product(x: Tensor, weight: Tensor) -> Tensor:
    """bf16 [n, in] times bf16 [out, in], float32 [n, out] with float32 sums."""
    if x.device.type == "cuda":
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return x.float() @ weight.float().t()  # a CPU has no such product


def _commit(rows: _Rows) -> Figures:
    """What a miner pays for the proof of one batch."""
    bench = rows.bench
    signs = bench.setting.projections(bench.model.hidden_size)
    whole = rows.cost(lambda: prove_rollouts(bench.model, rows.rows, rows.lengths, signs))
    body = rows.cost(lambda: bench.model.hidden_states(rows.rows))
    return {**whole.to_json(rows.tokens), "share_of_the_body": body.seconds / whole.seconds}


def _verify(rows: _Rows) -> Figures:
    """What a validator pays for one batch, with and without the reference, and where the time goes."""
    bench = rows.bench
    bare = rows.cost(lambda: bench.validator.measure(rows.rollouts, reference=False))
    whole = rows.cost(lambda: bench.validator.measure(rows.rollouts))
    body = rows.cost(lambda: bench.model.hidden_states(rows.rows))
    head = rows.cost(lambda: bench.model.logits(rows.opened))
    copied = rows.cost(lambda: bench.model.logits(rows.opened).cpu())
    on_cpu = max(0.0, bare.seconds - body.seconds - copied.seconds)
    return {
        "bare": bare.to_json(rows.tokens),
        "with_reference": whole.to_json(rows.tokens),
        "reference_over_bare": whole.seconds / bare.seconds,
        "positions": len(rows.opened),
        "share_of_bare": {
            "body": body.seconds / bare.seconds,
            "head": head.seconds / bare.seconds,
            "logits_to_main_memory": max(0.0, copied.seconds - head.seconds) / bare.seconds,
            "rest_on_the_cpu": on_cpu / bare.seconds,
        },
    }


def _compare(rows: _Rows) -> Figures:
    """Named alternatives on one batch, and how much of it is not forward passes."""
    bench = rows.bench
    bench.validator.measure(rows.rollouts)  # as before every comparison: the model's own states are kept from here
    taken: list[int] = []

    def run() -> None:
        taken.append(len(bench.validator.compare(rows.rollouts, bench.amount)))

    whole = rows.cost(run)
    wide = bench.validator.reference
    chosen = rows.rows[: bench.amount.compared]
    with tf32(False):
        one = rows.cost(lambda: wide.hidden_states(chosen))
    passes = 1 + len(bench.validator.alternatives.weights)
    return {
        **whole.to_json(taken[-1] * len(rows.rows[0])),
        "rollouts": taken[-1],
        "positions_a_rollout": bench.amount.compared_positions,
        "float32_passes": passes,
        "share_of_the_passes": passes * one.seconds / whole.seconds,
    }


def _generate(rows: _Rows) -> Figures:
    """The generator of this process on the same number of rollouts."""
    bench = rows.bench
    policy = GenerationPolicy(bench.amount.completion)
    generator = HfGenerator(bench.model, policy, frozenset())
    prompts = [r.tokens[: r.prompt_length] for r in rows.rollouts]
    requests = [GenerationRequest(prompt, 1 + index) for index, prompt in enumerate(prompts)]
    cost = cost_of(bench.device, lambda: generator.generate(requests), 1)
    return cost.to_json(len(requests) * bench.amount.completion)


def _items(bench: Bench) -> Sequence[Item]:
    rows: list[_Rows] = []

    def of(measure: Any) -> Any:
        def run() -> Figures:
            if not rows:
                rows.append(_Rows(bench))
            found: Figures = measure(rows[0])
            return found

        return run

    return [
        ("one pass", of(_bodies)),
        ("commit", of(_commit)),
        ("verify", of(_verify)),
        ("compare", of(_compare)),
        ("generate", of(_generate)),
    ]


SECTION = Section("throughput", 2.0, _items)
