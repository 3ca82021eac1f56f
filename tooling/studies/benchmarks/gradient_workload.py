"""A feedback buffer as training makes it: a model of bytes, trained on the project's own pages for some rounds in the run.

One miner, H steps of AdamW a round from moments of zero, its update merged alone; what the codec is given in the last round is
the sample. The model is a transformer of two layers and a million parameters, plain torch: wide enough that few of its tensors
are shorter than a chunk.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from grail_core.gradient.feedback import accumulate, compress
from grail_core.gradient.layout import Floats, Layout
from grail_core.gradient.merge import merge
from tooling import REPOSITORY
from tooling.testing.gradient_states import SPEC as SMALL

SPEC = dataclasses.replace(SMALL, chunk=4096, kept=64)
ROUNDS = 30
BATCH = 8
LENGTH = 64
WIDTH = 192
RATE = 4e-3


class ByteModel(nn.Module):
    """Logits of the next byte."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, WIDTH), nn.Embedding(LENGTH, WIDTH)
        layer = {"dim_feedforward": 4 * WIDTH, "dropout": 0.0, "batch_first": True, "norm_first": True, "bias": False}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, 4, **layer) for _ in range(2))  # type: ignore[arg-type]
        self.head = nn.Linear(WIDTH, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.bytes(tokens) + self.places.weight[: tokens.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        for layer in self.layers:
            hidden = layer(hidden, src_mask=mask, is_causal=True)
        logits: Tensor = self.head(hidden)
        return logits


def feedback_buffer() -> dict[str, Floats]:
    """a of the last round, by tensor."""
    torch.manual_seed(0)
    model, text = ByteModel(), _text()
    names = sorted(dict(model.named_parameters()))
    weights = {name: model.get_parameter(name).detach().numpy() for name in names}  # views of the model's memory
    layout = Layout.of([(name, weights[name].shape) for name in names], SPEC)
    rest: dict[str, Floats] | None = None
    sums: dict[str, Floats] = {}
    order = np.random.default_rng(0)
    for _ in range(ROUNDS):
        start = {name: values.copy() for name, values in weights.items()}
        _steps(model, text, order)
        delta = {name: start[name] - weights[name] for name in names}
        before = rest or {name: np.zeros_like(values) for name, values in delta.items()}
        sums = {name: accumulate(delta[name], before[name], SPEC) for name in names}
        streams, rest = compress(layout, SPEC, delta, rest)
        for name, values in merge(start, [streams], layout, SPEC.outer_rate(0)):
            weights[name][...] = values
    return sums


def _steps(model: ByteModel, text: Tensor, order: np.random.Generator) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(SPEC.inner_steps):
        rows = text[torch.from_numpy(order.integers(0, len(text), BATCH))]
        logits = model(rows[:, :-1])
        loss = functional.cross_entropy(logits.reshape(-1, 256), rows[:, 1:].reshape(-1))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def _text() -> Tensor:
    raw = b"".join(path.read_bytes() for path in sorted((REPOSITORY / "docs").glob("*.md")))
    rows = len(raw) // LENGTH
    return torch.from_numpy(np.frombuffer(raw[: rows * LENGTH], np.uint8).reshape(rows, LENGTH).astype(np.int64))
