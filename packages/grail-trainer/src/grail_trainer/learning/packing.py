"""Rows as the model reads them: end to end in one pass without padding, or padded where an architecture cannot do that.

In a pack, rows that begin with the same prompt (the rollouts of a group) share it: its hidden states, keys and values are
computed once, and its gradient is the sum of theirs, as it is when each has a prompt of its own. The last token of a row is
read by nobody and is left out. Positions start anew in every row, and attention is that of `attention`: no row sees another.

Whether an architecture can be packed is tried, not known by name (`can_be_packed`): rows in a pack must be what each is alone,
and one of them changed must change no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from grail_core.errors import is_out_of_memory
from grail_trainer.learning.attention import PACKED, Segment, Segments, register
from grail_trainer.learning.rollouts import TokenSequence


@dataclass(frozen=True)
class Pack:
    """Rows end to end. `tokens`, `positions`: int64 [N]. Per completion token, row after row in the order given, int64 [n]:
    `states` the place whose hidden state predicts it, `targets` the token."""

    tokens: Tensor
    positions: Tensor
    states: Tensor
    targets: Tensor
    segments: Segments


@dataclass(frozen=True)
class _Part:
    """Consecutive tokens of a pack from `start`, the first of them at `position` of its row."""

    start: int
    position: int
    tokens: tuple[int, ...]


def pack(rows: Sequence[TokenSequence]) -> Pack:
    """Lay rows end to end, those with one prompt after it."""
    parts: list[_Part] = []
    segments: list[Segment] = []
    places: dict[int, Tensor] = {}

    def lay(tokens: tuple[int, ...], position: int, prompt: _Part | None = None) -> _Part:
        start = parts[-1].start + len(parts[-1].tokens) if parts else 0
        part = _Part(start, position, tokens)
        if tokens:
            parts.append(part)
            before = (0, 0) if prompt is None else (prompt.start, len(prompt.tokens))
            segments.append(Segment(start, len(tokens), *before))
        return part

    for prompt, members in _families(rows):
        if len(members) == 1:
            row = rows[members[0]]
            whole = lay(row.tokens[:-1], 0)
            places[members[0]] = torch.arange(whole.start + row.prompt_length - 1, whole.start + len(whole.tokens))
            continue
        shared = lay(prompt, 0)
        last = torch.tensor([shared.start + len(prompt) - 1])
        for index in members:
            own = lay(rows[index].tokens[len(prompt) : -1], len(prompt), shared)
            places[index] = torch.cat([last, torch.arange(own.start, own.start + len(own.tokens))])
    return Pack(
        tokens=torch.tensor([token for part in parts for token in part.tokens]),
        positions=torch.cat([torch.arange(part.position, part.position + len(part.tokens)) for part in parts]),
        states=torch.cat([places[index] for index in range(len(rows))]),
        targets=_targets(rows),
        segments=Segments(segments),
    )


def _families(rows: Sequence[TokenSequence]) -> list[tuple[tuple[int, ...], list[int]]]:
    """(prompt, indices of the rows that begin with it), in the order in which prompts come first."""
    families: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        families.setdefault(row.tokens[: row.prompt_length], []).append(index)
    return list(families.items())


def _targets(rows: Iterable[TokenSequence]) -> Tensor:
    return torch.tensor([token for row in rows for token in row.tokens[row.prompt_length :]])


def packs(rows: Sequence[TokenSequence], most_tokens: int, *, packed: bool = True) -> list[list[int]]:
    """Indices of rows that run together, so that no pass is of more than `most_tokens` tokens; the first holds the largest.

    Rows with one prompt stay together where they fit, since they share it. A row that is longer than the budget by itself is
    a pass of its own: nothing is left out. A function of its arguments.

    Args:
        packed: False for rows that are padded to the longest of a pass.
    """
    if not packed:
        return _padded_packs(rows, most_tokens)
    bundles: list[tuple[int, list[int]]] = []
    for prompt, members in _families(rows):
        bundles += _bundles(rows, len(prompt), members, most_tokens)
    passes: list[list[int]] = []
    room: list[int] = []
    for cost, members in sorted(bundles, key=lambda bundle: -bundle[0]):
        place = next((number for number, left in enumerate(room) if cost <= left), None)
        if place is None:
            passes.append([])
            room.append(most_tokens)
            place = -1
        passes[place] += members
        room[place] -= cost
    return passes


def _bundles(rows: Sequence[TokenSequence], prompt: int, members: Sequence[int], most: int) -> Iterator[tuple[int, list[int]]]:
    """(tokens, rows) of one prompt, the longest rows first, cut where a pass is full."""
    cost, bundle = prompt, list[int]()
    for index in sorted(members, key=lambda index: -len(rows[index].tokens)):
        own = rows[index].completion_length - 1
        if bundle and cost + own > most:
            yield cost, bundle
            cost, bundle = prompt, []
        cost += own
        bundle.append(index)
    yield cost, bundle


def _padded_packs(rows: Sequence[TokenSequence], most: int) -> list[list[int]]:
    passes: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].tokens)):
        if not passes or (len(passes[-1]) + 1) * len(rows[passes[-1][0]].tokens) > most:
            passes.append([])
        passes[-1].append(index)
    return passes


def completion_states(module: Any, rows: Sequence[TokenSequence], *, packed: bool) -> tuple[Tensor, Tensor]:
    """For every completion token the hidden state [n, d] it is predicted from, and the token itself, int64 [n].

    The model's pass is in evaluation mode (no dropout), whatever mode it is in, and is left in.
    """
    device = module.get_input_embeddings().weight.device
    with _evaluating(module):
        if not packed:
            return _padded_states(module, rows, device)
        laid = pack(rows)
        with _attending(module):
            hidden = module.base_model(
                input_ids=laid.tokens[None].to(device),
                position_ids=laid.positions[None].to(device),
                segments=laid.segments,
                use_cache=False,
            ).last_hidden_state[0]
    return hidden.index_select(0, laid.states.to(device)), laid.targets.to(device)


def _padded_states(module: Any, rows: Sequence[TokenSequence], device: torch.device) -> tuple[Tensor, Tensor]:
    """Padded on the right: the model is causal, so padding changes nothing before it."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = torch.tensor(row.tokens, dtype=torch.long)
    places = [
        torch.arange(index * width + row.prompt_length - 1, index * width + len(row.tokens) - 1)
        for index, row in enumerate(rows)
    ]
    hidden = module.base_model(input_ids=tokens.to(device), use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, torch.cat(places).to(device)), _targets(rows).to(device)


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _attending(module: Any) -> Iterator[None]:
    """The attention of packs for one pass; whoever else uses the module finds its own again."""
    register()
    before = module.config._attn_implementation
    module.config._attn_implementation = PACKED
    try:
        yield
    finally:
        module.config._attn_implementation = before


# --- can this architecture be packed? ---------------------------------------------------------------------------------

_LEAST_EQUAL: Final = {torch.float32: 1e-3, torch.float64: 1e-6}
_HALF_EQUAL: Final = 3e-2
"""Of the largest hidden state, how far a row in a pack may be from the same row alone. Another row's attention is far more."""

_tried: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@torch.no_grad()
def can_be_packed(module: Any) -> bool:
    """Are rows in a pack what each is alone, and untouched by a change of another? Tried once for every module."""
    if module not in _tried:
        _tried[module] = _try(module)
    return _tried[module]


def _try(module: Any) -> bool:
    rows, changed = _trial(module.config.get_text_config())
    try:
        together = completion_states(module, rows, packed=True)[0].float()
        perturbed = completion_states(module, changed, packed=True)[0].float()
    except (NotImplementedError, TypeError, ValueError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return False  # it does not take what a pack hands it
    alone = torch.cat([completion_states(module, [row], packed=False)[0].float() for row in rows])
    counts = [row.completion_length for row in rows]
    kept = torch.cat([part for index, part in enumerate(torch.split(perturbed, counts)) if index != _PERTURBED])
    held = torch.cat([part for index, part in enumerate(torch.split(together, counts)) if index != _PERTURBED])
    near = _LEAST_EQUAL.get(next(module.parameters()).dtype, _HALF_EQUAL) * alone.abs().max()
    return bool((together - alone).abs().max() <= near) and bool((kept - held).abs().max() <= near)


_PERTURBED: Final = 1


def _trial(config: Any) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Rows of three prompts, two of them shared, longer than a window where that is possible; and the same with one changed."""
    context = int(getattr(config, "max_position_embeddings", None) or 64)
    window = int(getattr(config, "sliding_window", None) or 8)
    length = max(6, min(context - 1, window + 5, 600))
    prompt = length // 2

    def row(seed: int, own: int, whole: int) -> TokenSequence:
        text = [(seed * 31 + place * 7) % (config.vocab_size - 1) for place in range(prompt)]
        text += [(own * 17 + place * 5) % (config.vocab_size - 1) for place in range(whole - prompt)]
        return TokenSequence(tuple(text), prompt)

    rows = [row(1, 1, length), row(2, 2, length), row(1, 3, length - 1), row(3, 4, length), row(2, 5, length)]
    changed = list(rows)
    changed[_PERTURBED] = row(2, 6, length)
    return rows, changed
