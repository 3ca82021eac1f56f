"""Generation in this process: a Transformers model with a key-value cache, float32 logits and the protocol's sampler.

Made for many short completions of a small model on few cores. Each distinct prompt is prefilled once, its rows decode
together against one copy of its keys and values (`prefix`), whatever policies they have (`row_samplers`), and finished rows
leave the batch. Larger models belong to the engines' servers; what is generated is the same, up to the drift between numerics
that verification allows for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.errors import ProtocolViolationError
from grail_core.generation.base import Completion, Drawn, GenerationRequest
from grail_core.generation.decoding import decoding_twin, named_refusal
from grail_core.generation.policies import policies_of
from grail_core.generation.prefix import LayerCache, SharedPrefixCache
from grail_core.generation.row_samplers import RowSamplers
from grail_core.model.architecture import require_decodable
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy, completion_limit

_PREFILL_TOKENS = 4096  # tokens of one prefill pass, padding included
# Cost of one more line of the grid (its prompt's keys and values are read) in rows; measured for 100-token prompts.
_LINE_COST = 0.4
_COMPACT_BELOW = 0.75  # share of grid cells still decoding under which the grid is laid out anew


class HfGenerator:
    """Draws with one model of this process; `in_process` makes a `Generator` of it.

    Args:
        model: loaded weights.
        policy: the network's sampling policy: of every request that has none of its own.
        end_tokens: ids that end a completion (kept as its last token).
        sampler: of this policy, where the caller looks on; by default one of its own.
        batch_rows: most rows decoded together; memory grows with it, speed hardly beyond some hundreds.

    Raises:
        CheckpointError: a model whose tokens would not be those of the forward pass; see `require_decodable`.
    """

    def __init__(
        self,
        model: PolicyModel,
        policy: GenerationPolicy,
        end_tokens: frozenset[int],
        batch_rows: int = 512,
        *,
        sampler: SeededSampler | None = None,
    ) -> None:
        require_decodable(model.module)
        self._model = model
        self._policy = policy
        self._sampler = sampler or SeededSampler(policy)
        self._batch_rows = max(1, batch_rows)
        self._is_end = np.zeros(model.vocabulary_size, dtype=bool)
        self._is_end[[token for token in end_tokens if 0 <= token < model.vocabulary_size]] = True
        self._twin = decoding_twin(model.base)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion per request, in order; the model's lock is held until the last one is there.

        Raises:
            OutOfVocabularyError, OverlongSequenceError: a prompt the model cannot take.
            ProtocolViolationError: a prompt that leaves no room for a token, or a request's policy that is none.
            CheckpointError: the model's code asks for what is not decoded here.
        """
        with self._model.lock:
            drawn = {one.index: one.completion for one in self.stream(requests, _never)}
        return [drawn[index] for index in range(len(requests))]

    def stream(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        """Every request once, as it is finished; fewer once `cancelled`, which is asked before every step, says true.

        The model's lock is held within a step alone, so that others can run it in between: who changes its weights
        meanwhile gets a mixture. Errors: as `generate`, before anything is drawn but for the last.
        """
        policies = policies_of(requests, self._policy)
        self._model.check_rows([request.prompt for request in requests])
        for request, policy in zip(requests, policies, strict=True):
            if completion_limit(policy, self._model.context_length, len(request.prompt)) < 1:
                raise ProtocolViolationError(
                    f"a prompt of {len(request.prompt)} tokens leaves no room in a context of {self._model.context_length}",
                    where="max_position_embeddings in config.json",
                    hint="use a model with a longer context, or an environment with shorter problems",
                )
        # Rows with the same prompt decode together, and prompts of like length, so that little of a batch is padding.
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt), requests[i].prompt))
        for start in range(0, len(order), self._batch_rows):
            chosen = order[start : start + self._batch_rows]
            batch = _Batch(self, [requests[i] for i in chosen], [policies[i] for i in chosen])
            for row, tokens in batch.run(cancelled):
                yield Drawn(chosen[row], Completion(tokens))


def _never() -> bool:
    return False


class _Batch:
    """One batch from prefill to its last token. Cells of the grid hold a row's index, or −1."""

    def __init__(self, generator: HfGenerator, requests: list[GenerationRequest], policies: list[GenerationPolicy]) -> None:
        self._generator = generator
        self._model = generator._model
        self._samplers = RowSamplers(policies, generator._policy, generator._sampler)
        self._prompts = list(dict.fromkeys(request.prompt for request in requests))
        index = {prompt: i for i, prompt in enumerate(self._prompts)}
        self._requests = requests
        self._prompt_of = np.array([index[request.prompt] for request in requests], dtype=np.int64)
        self._prompt_lengths = np.array([len(request.prompt) for request in requests], dtype=np.int64)
        self._seeds = np.array([request.sampling_seed & (2**64 - 1) for request in requests], dtype=np.uint64)
        context = self._model.context_length
        self._limits = np.array(
            [completion_limit(p, context, len(request.prompt)) for p, request in zip(policies, requests, strict=True)],
            dtype=np.int64,
        )
        self._tokens = np.zeros((len(requests), 64), dtype=np.int64)
        self._counts = np.zeros(len(requests), dtype=np.int64)
        self._device = self._model.device

    def run(self, cancelled: Callable[[], bool]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Each row with its tokens once it is finished."""
        if cancelled():
            return
        rows = np.arange(len(self._requests))
        cells, cache, active = self._begin(rows)
        yield from self._finished(rows, active)
        step = 0
        while len(active) and not cancelled():
            decoded = active
            cells, active = self._step(cells, decoded, step, cache)
            yield from self._finished(decoded, active)
            step += 1

    @torch.inference_mode()
    def _begin(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], SharedPrefixCache, npt.NDArray[np.int64]]:
        """Prefill, and the first token of every row, which comes from its prompt's last position."""
        with self._model.lock:
            cells = _lay_out(self._prompt_of, rows)
            last, cache = self._prefill(self._prompt_of[cells[:, 0]], cells.size)
            # One row of hidden states per prompt here, then one per cell.
            return cells, cache, self._accept(rows, self._logits_of_prompts(last, rows))

    @torch.inference_mode()
    def _step(
        self, cells: npt.NDArray[np.int64], active: npt.NDArray[np.int64], step: int, cache: SharedPrefixCache
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """One more token of these rows. Returns the grid and the rows that go on."""
        with self._model.lock:
            if len(active) < _COMPACT_BELOW * cells.size:
                cells = self._compact(cells, active, cache)
            hidden, where = self._decode(cells, active, step, cache)
            return cells, self._accept(cells.reshape(-1)[where], self._model.logits(hidden))

    def _finished(
        self, decoded: npt.NDArray[np.int64], going_on: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        for row in np.setdiff1d(decoded, going_on).tolist():
            yield row, tuple(self._tokens[row, : self._counts[row]].tolist())

    def _prefill(self, lines: npt.NDArray[np.int64], rows: int) -> tuple[Tensor, SharedPrefixCache]:
        """Run every prompt once. Returns the hidden state after each prompt [prompts, d] and the cache of the grid."""
        from transformers import DynamicCache

        longest = max(map(len, self._prompts))
        last: list[Tensor] = []
        keys: list[list[Tensor]] = []
        values: list[list[Tensor]] = []
        for batch in _prefill_batches(self._prompts):
            width = max(map(len, batch))
            tokens = torch.zeros((len(batch), width), dtype=torch.long)
            for i, prompt in enumerate(batch):
                tokens[i, : len(prompt)] = torch.tensor(prompt)
            past = DynamicCache()  # not of the configuration's kinds: a layer with a window would keep its last keys alone
            with named_refusal(self._model):
                out = self._model.base(
                    input_ids=tokens.to(self._device), past_key_values=past, use_cache=True
                ).last_hidden_state
            last.append(out[torch.arange(len(batch)), torch.tensor([len(prompt) - 1 for prompt in batch])])
            pad = (0, 0, 0, longest - width)
            keys.append([torch.nn.functional.pad(layer.keys.float(), pad) for layer in past.layers])
            values.append([torch.nn.functional.pad(layer.values.float(), pad) for layer in past.layers])
        pick = torch.from_numpy(lines).to(self._device)
        layers = []
        for k, v in zip(zip(*keys, strict=True), zip(*values, strict=True), strict=True):
            layers.append(LayerCache(torch.cat(k).index_select(0, pick), torch.cat(v).index_select(0, pick), rows))
        lengths = torch.tensor([len(prompt) for prompt in self._prompts], device=self._device).index_select(0, pick)
        return torch.cat(last), SharedPrefixCache(layers, lengths)

    def _logits_of_prompts(self, last: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
        return self._model.logits(last).index_select(0, torch.from_numpy(self._prompt_of[rows]).to(self._device))

    def _decode(
        self, cells: npt.NDArray[np.int64], active: npt.NDArray[np.int64], step: int, cache: SharedPrefixCache
    ) -> tuple[Tensor, npt.NDArray[np.intp]]:
        """One step of the whole grid. Returns the hidden states of the cells still decoding, and which cells these are."""
        flat = cells.reshape(-1)
        decoding = np.zeros(len(self._requests) + 1, dtype=bool)  # the last entry stands for empty cells (−1)
        decoding[active] = True
        where = np.flatnonzero(decoding[flat])
        rows = flat[where]
        tokens = np.zeros(flat.size, dtype=np.int64)
        positions = np.zeros(flat.size, dtype=np.int64)
        tokens[where] = self._tokens[rows, step]
        positions[where] = self._prompt_lengths[rows] + step
        with named_refusal(self._model):
            hidden = self._generator._twin(
                input_ids=torch.from_numpy(tokens)[:, None].to(self._device),
                position_ids=torch.from_numpy(positions)[:, None].to(self._device),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, 0]
        if len(where) < flat.size:
            hidden = hidden.index_select(0, torch.from_numpy(where).to(self._device))
        return hidden, where

    def _accept(self, rows: npt.NDArray[np.int64], logits: Tensor) -> npt.NDArray[np.int64]:
        """Sample the next token of these rows and return those that go on."""
        counts = self._counts[rows]
        positions = (self._prompt_lengths[rows] + counts - 1).astype(np.uint32)
        tokens = self._samplers.sample(rows, logits, self._seeds[rows], positions, self._history)
        if int(counts.max()) == self._tokens.shape[1]:
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)], axis=1)
        self._tokens[rows, counts] = tokens
        self._counts[rows] = counts + 1
        going_on = ~self._generator._is_end[tokens] & (self._counts[rows] < self._limits[rows])
        return rows[going_on]

    def _history(self, row: int) -> tuple[int, ...]:
        """Prompt and completion so far."""
        return (*self._requests[row].prompt, *self._tokens[row, : self._counts[row]].tolist())

    def _compact(
        self, cells: npt.NDArray[np.int64], active: npt.NDArray[np.int64], cache: SharedPrefixCache
    ) -> npt.NDArray[np.int64]:
        fresh = _lay_out(self._prompt_of, np.sort(active))
        cell_of = np.zeros(len(self._requests), dtype=np.int64)
        flat = cells.reshape(-1)
        occupied = flat >= 0
        cell_of[flat[occupied]] = np.flatnonzero(occupied)
        source = np.where(fresh >= 0, cell_of[fresh], 0)
        lines = source[:, 0] // cells.shape[1]
        cache.select(torch.from_numpy(lines).to(self._device), torch.from_numpy(source.reshape(-1)).to(self._device))
        return fresh


def _lay_out(prompt_of: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Place rows on a grid [lines, width] whose lines share a prompt; −1 fills the rest, never a line's first cell.

    The width is the one with the least cost of cells and lines; a prompt with more rows than that takes several lines.
    """
    by_prompt: dict[int, list[int]] = {}
    for row in rows.tolist():
        by_prompt.setdefault(int(prompt_of[row]), []).append(row)
    sizes = Counter(map(len, by_prompt.values()))
    widths = sorted({min(2**i, max(sizes)) for i in range(max(sizes).bit_length() + 1)} | set(sizes))
    width = min(widths, key=lambda w: sum(-(-size // w) * (w + _LINE_COST) * n for size, n in sizes.items()))
    lines = [members[i : i + width] for members in by_prompt.values() for i in range(0, len(members), width)]
    cells = np.full((len(lines), width), -1, dtype=np.int64)
    for line, members in zip(cells, lines, strict=True):
        line[: len(members)] = members
    return cells


def _prefill_batches(prompts: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Split prompts (by rising length) so that a pass has at most _PREFILL_TOKENS tokens with padding."""
    batches: list[list[tuple[int, ...]]] = []
    for prompt in prompts:
        if batches and (len(batches[-1]) + 1) * len(prompt) <= _PREFILL_TOKENS:
            batches[-1].append(prompt)
        else:
            batches.append([prompt])
    return batches
