"""`StreamingGenerator` in this process: a Transformers model whose running batch changes from token to token.

Prompts are read in pieces of bounded length between the tokens of the others, so that a long one keeps nobody waiting for
longer than such a piece; rows with the same prompt that wait together share its reading. A row begins once the cache has room
for the longest that it and its company can become, in the order of arrival; alone it begins in any case.

Whoever proves rows needs the states that they were drawn from: they are kept where that is asked for. The last token's own
state takes one more step, of a row that is not drawn any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from grail_core.errors import ProtocolViolationError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.decoding import decoding_twin, named_refusal
from grail_core.generation.policies import policies_of
from grail_core.generation.row_cache import RowCache
from grail_core.generation.streaming import Advance, Handle
from grail_core.model.architecture import require_decodable
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy, completion_limit

MAX_ROWS = 64
PIECE_TOKENS = 512
"""Prompt tokens that are read between two tokens of the rows that run, padding included."""
_IDLE_PIECE_TOKENS = 4096  # where nobody waits for a token
_KEPT = 2  # times the rows that run: so many others' states are kept until somebody asks for them


@dataclass(eq=False)
class _Row:
    handle: Handle
    request: GenerationRequest
    sampler: SeededSampler
    limit: int  # tokens of its completion
    tokens: list[int] = field(default_factory=list)
    over: bool = False  # it has its last token, whose state is still to come
    states: list[Tensor] = field(default_factory=list)  # [positions, d] each, end to end

    @property
    def length(self) -> int:
        """The most positions that it can come to."""
        return len(self.request.prompt) + self.limit


@dataclass(eq=False)
class _Waiting:
    """Rows that wait for one prompt to be read; `read` positions of it lie in `past`."""

    prompt: tuple[int, ...]
    rows: list[_Row]
    past: Any = None
    read: int = 0
    states: list[Tensor] = field(default_factory=list)  # of its last positions but one, if they are kept


class HfStreaming:
    """Draws with one model of this process.

    Args:
        policy: of requests that have none of their own. end_tokens: ids that end a completion (kept as its last token).
        max_rows: rows that run at the same time.
        max_positions: of the cache, rows times the longest; None: no limit. `position_bytes` says what one takes.
        prompt_states: of so many last positions of a prompt the states are kept, and of every token; 0: none at all.

    Raises:
        CheckpointError: a model whose tokens would not be those of the forward pass; see `require_decodable`.
    """

    def __init__(
        self,
        model: PolicyModel,
        policy: GenerationPolicy,
        end_tokens: frozenset[int],
        *,
        max_rows: int = MAX_ROWS,
        max_positions: int | None = None,
        prompt_states: int = 0,
    ) -> None:
        require_decodable(model.module)
        self._model = model
        self._policy = policy
        self._end_tokens = end_tokens
        self._max_rows = max_rows
        self._max_positions = max_positions
        self._prompt_states = prompt_states
        self._kept: dict[Handle, list[Tensor]] = {}  # of rows that are not drawn any more, oldest first
        self._twin = decoding_twin(model.base)
        self._cache = RowCache()
        self._rows: list[_Row] = []  # as the cache has them
        self._waiting: deque[_Waiting] = deque()
        self._samplers: WeakValueDictionary[GenerationPolicy, SeededSampler] = WeakValueDictionary()
        self._next = 0

    @property
    def open_rows(self) -> int:
        """Rows that run or wait."""
        return len(self._rows) + sum(len(one.rows) for one in self._waiting)

    def add(self, request: GenerationRequest) -> Handle:
        """See `StreamingGenerator`."""
        (policy,) = policies_of([request], self._policy)
        self._model.check_rows([request.prompt])
        limit = completion_limit(policy, self._model.context_length, len(request.prompt))
        if limit < 1:
            raise ProtocolViolationError(
                f"a prompt of {len(request.prompt)} tokens leaves no room in a context of {self._model.context_length}",
                where="max_position_embeddings in config.json",
                hint="use a model with a longer context, or a shorter prompt",
            )
        handle = Handle(self._next)
        self._next += 1
        row = _Row(handle, request, self._sampler(policy), limit)
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.prompt == request.prompt and len(last.rows) < self._max_rows:
            last.rows.append(row)
        else:
            self._waiting.append(_Waiting(request.prompt, [row]))
        return handle

    @torch.inference_mode()
    def step(self) -> list[Advance]:
        """See `StreamingGenerator`: a piece of the prompts that wait, and one token of every row that runs."""
        drawn: dict[Handle, list[int]] = {}
        with self._model.lock:
            finished = self._read_prompts(drawn)
            begun = set(drawn)
            finished |= self._decode(drawn)
        return [Advance(handle, tuple(tokens), handle in finished, handle in begun) for handle, tokens in drawn.items()]

    def forget(self, handle: Handle) -> None:
        """Nobody will ask for the states of this row, which runs no more."""
        self._kept.pop(handle, None)

    def states(self, handle: Handle) -> Tensor | None:
        """The final hidden states [positions, d] that a row was drawn from, in the model's dtype: of its prompt's last
        positions and of its tokens, but for the last one of a row that was cancelled. Given once; None where none are kept."""
        kept = self._kept.pop(handle, None)
        return None if kept is None else torch.cat(kept)

    @torch.inference_mode()
    def cancel(self, handle: Handle) -> None:
        """See `StreamingGenerator`."""
        for at, row in enumerate(self._rows):
            if row.handle == handle:
                self._remove(at)
                return
        for one in self._waiting:
            one.rows = [row for row in one.rows if row.handle != handle]
        self._waiting = deque(one for one in self._waiting if one.rows)

    # Prompts.

    def _read_prompts(self, drawn: dict[Handle, list[int]]) -> set[Handle]:
        """One pass over prompts. Returns the rows that are finished with their first token."""
        room = PIECE_TOKENS if self._rows else _IDLE_PIECE_TOKENS
        chosen = self._may_begin(room)
        if not chosen:
            return set()
        first = chosen[0]
        if len(first.prompt) - first.read > room or first.read:
            if not self._read_piece(first, room):
                return set()
            chosen = [first]
        else:
            self._read_whole(chosen)
        for one in chosen:
            self._waiting.remove(one)
        return self._begin(chosen, drawn)

    def _may_begin(self, room: int) -> list[_Waiting]:
        """The next prompts that are read in one pass: the first alone where it is long, else as many as `room` has."""
        chosen: list[_Waiting] = []
        rows, longest, widest = len(self._rows), max((row.length for row in self._rows), default=0), 0
        for one in self._waiting:
            rows += len(one.rows)
            longest = max(longest, *(row.length for row in one.rows))
            widest = max(widest, len(one.prompt))
            alone = not self._rows and not chosen
            crowded = rows > self._max_rows or (self._max_positions is not None and rows * longest > self._max_positions)
            if (crowded and not alone) or (chosen and ((len(chosen) + 1) * widest > room or one.read)):
                break
            chosen.append(one)
            if one.read or len(one.prompt) > room:
                break
        return chosen

    def _read_piece(self, one: _Waiting, room: int) -> bool:
        """So many more tokens of a long prompt. True once it is read; its last hidden state is then in `past`'s place."""
        from transformers import DynamicCache

        if one.past is None:
            one.past = DynamicCache()
        piece = one.prompt[one.read : one.read + room]
        hidden = self._forward(self._model.base, [piece], one.past, one.read)
        one.read += len(piece)
        if self._prompt_states:
            tail = torch.cat([*one.states, hidden[0]])[-self._prompt_states :]
            one.states = [tail if one.read < len(one.prompt) else tail[:-1]]
        if one.read < len(one.prompt):
            return False
        keys, values = ([part[0] for part in parts] for parts in zip(*_parts(one.past), strict=True))
        one.past = _Read(hidden[0, -1:], keys, values)
        return True

    def _read_whole(self, chosen: Sequence[_Waiting]) -> None:
        """These prompts in one pass, padded on the right, where nothing sees the padding."""
        from transformers import DynamicCache

        past = DynamicCache()  # not of the configuration's kinds: a layer with a window would keep its last keys alone
        hidden = self._forward(self._model.base, [one.prompt for one in chosen], past, 0)
        for index, one in enumerate(chosen):
            length = len(one.prompt)
            keys, values = ([part[index, :, :length] for part in parts] for parts in zip(*_parts(past), strict=True))
            one.past = _Read(hidden[index, length - 1 : length], keys, values)
            if self._prompt_states:
                one.states = [hidden[index, max(0, length - self._prompt_states) : length - 1].clone()]

    def _forward(self, base: Any, rows: Sequence[Sequence[int]], past: Any, first: int) -> Tensor:
        width = max(map(len, rows))
        tokens = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
        positions = torch.arange(first, first + width).expand(len(rows), -1)
        device = self._model.device
        with named_refusal(self._model):
            hidden: Tensor = base(
                input_ids=tokens.to(device), position_ids=positions.to(device), past_key_values=past, use_cache=True
            ).last_hidden_state
        return hidden

    def _begin(self, chosen: Sequence[_Waiting], drawn: dict[Handle, list[int]]) -> set[Handle]:
        """The first token of every row whose prompt was read; from now on these rows run."""
        first = len(self._rows)
        hidden = []
        for one in chosen:
            read: _Read = one.past
            self._cache.add(read.keys, read.values, len(one.rows))
            self._rows += one.rows
            for row in one.rows:
                row.states = list(one.states)
            hidden.append(read.hidden.expand(len(one.rows), -1))
            one.past = None
        return self._accept(range(first, len(self._rows)), torch.cat(hidden), drawn)

    # Tokens.

    def _decode(self, drawn: dict[Handle, list[int]]) -> set[Handle]:
        if not self._rows:
            return set()
        self._cache.begin()
        tokens = torch.tensor([row.tokens[-1] for row in self._rows])[:, None]
        positions = torch.from_numpy(self._cache.lengths)[:, None]
        device = self._model.device
        with named_refusal(self._model):
            hidden = self._twin(
                input_ids=tokens.to(device), position_ids=positions.to(device), past_key_values=self._cache, use_cache=True
            ).last_hidden_state[:, 0]
        self._cache.end()
        return self._accept(range(len(self._rows)), hidden, drawn)

    def _accept(self, rows: Sequence[int], hidden: Tensor, drawn: dict[Handle, list[int]]) -> set[Handle]:
        """Draw the next token of these rows from their states, and take out those that are finished."""
        chosen = [self._rows[at] for at in rows]
        if self._prompt_states:
            for row, state in zip(chosen, torch.split(hidden, 1), strict=True):
                row.states.append(state.clone())  # else it would keep the whole batch's
        going = [index for index, row in enumerate(chosen) if not row.over]
        states = hidden if len(going) == len(chosen) else hidden[torch.tensor(going, dtype=torch.long, device=hidden.device)]
        tokens = self._sample([chosen[index] for index in going], self._model.logits(states)) if going else []
        finished = set()
        for at, row in zip(reversed(rows), reversed(chosen), strict=True):
            told = drawn.setdefault(row.handle, [])
            if not row.over:
                token = tokens.pop()
                row.tokens.append(token)
                told.append(token)
                row.over = token in self._end_tokens or len(row.tokens) == row.limit
                if not row.over or self._prompt_states:
                    continue
            finished.add(row.handle)
            self._remove(at)
        return finished

    def _sample(self, rows: Sequence[_Row], logits: Tensor) -> list[int]:
        seeds = np.array([row.request.sampling_seed & (2**64 - 1) for row in rows], dtype=np.uint64)
        positions = np.array([len(row.request.prompt) + len(row.tokens) - 1 for row in rows], dtype=np.uint32)
        by_sampler: dict[SeededSampler, list[int]] = {}
        for at, row in enumerate(rows):
            by_sampler.setdefault(row.sampler, []).append(at)
        tokens = np.empty(len(rows), dtype=np.int64)
        for sampler, these in by_sampler.items():
            of_these = logits if len(these) == len(rows) else logits[torch.tensor(these, device=logits.device)]
            histories = [(*rows[i].request.prompt, *rows[i].tokens) for i in these] if sampler.needs_history else None
            tokens[these] = sampler.sample(of_these, seeds[these], positions[these], histories)
        return [int(token) for token in tokens]

    def _remove(self, at: int) -> None:
        """As the cache does it: the last row takes the place."""
        self._cache.remove(at)
        gone = self._rows[at]
        if self._prompt_states:
            self._kept[gone.handle] = gone.states
            while len(self._kept) > _KEPT * self._max_rows:
                del self._kept[next(iter(self._kept))]
        last = self._rows.pop()
        if at < len(self._rows):
            self._rows[at] = last

    def _sampler(self, policy: GenerationPolicy) -> SeededSampler:
        """One for each way of sampling, so that rows that are drawn alike are drawn together."""
        way = replace(policy, max_tokens=1)
        sampler = self._samplers.get(way)
        if sampler is None:
            sampler = self._samplers[way] = SeededSampler(way)
        return sampler


@torch.inference_mode()
def position_bytes(model: PolicyModel) -> int:
    """Of keys and values of one position in the cache, all layers together."""
    from transformers import DynamicCache

    past = DynamicCache()
    with model.lock, named_refusal(model):
        model.base(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), past_key_values=past, use_cache=True)
    return sum(4 * part.numel() for parts in _parts(past) for part in parts)  # float32, whatever the model computes in


@dataclass(frozen=True)
class _Read:
    """A prompt that was read: its last hidden state [1, d], and keys and values of each layer [kv heads, positions, d]."""

    hidden: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]


def _parts(past: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in past.layers]
