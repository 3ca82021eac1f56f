"""Seeded sampling inside an engine: section 4 of GRAIL's protocol, on the device, for vLLM and SGLang.

This folder is put on the engine's PYTHONPATH; nothing else of GRAIL's is needed there. Every request says how it is drawn and
sets the engine's own sampling to greedy; of each row of logits only the token that section 4 gives is left finite, so the
engine's argmax takes it. A request that says none of this, or asks the engine for anything that would change logits first, is
refused: nothing is drawn unseeded in silence.

`GrailLogitsProcessor` is vLLM's class, for both generations of its model runner; `GrailCustomLogitProcessor` is SGLang's. Both
are made when they are asked for, since their bases are the engine's. A row's position is the index of its last input token;
where an engine does not give it on the device, it is one integer per request and step from the engine's own count.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # engines have this folder on their path, and no grail_core
    from grail_core.generation.plugin.grail_seeded_draws import (
        PLAIN,
        Drawing,
        check_device,
        draw,
        drawing_of,
        force,
        uploaded,
        width_of,
    )
else:
    from grail_seeded_draws import PLAIN, Drawing, check_device, draw, drawing_of, force, uploaded, width_of

ROUNDED_HEAD_ALLOWED = "GRAIL_ROUNDED_HEAD_ALLOWED"
"""Environment variable: "1" where the numerics class says that the engine's head is rounded to bf16."""


class Head:
    """Whether the logits are products in float32, looked at in the first steps: a head that rounds to bf16 leaves only bf16."""

    def __init__(self, remedy: str) -> None:
        self._remedy, self._left = remedy, 3

    def look(self, logits: Tensor) -> None:
        """logits: float32 [n, V] as the engine gives them.

        Raises:
            RuntimeError: every value of a row is a bf16 number, and the numerics class does not say so.
        """
        if self._left == 0 or logits.shape[0] == 0 or os.environ.get(ROUNDED_HEAD_ALLOWED) == "1":
            return
        row = logits[0]
        if int(torch.unique(row).numel()) < 64:  # too few values to tell by
            return
        if bool((row == row.to(torch.bfloat16).to(torch.float32)).all()):
            raise RuntimeError(
                f"the engine rounds its logits to bf16: {self._remedy}, or choose the numerics class that says so "
                f"and set {ROUNDED_HEAD_ALLOWED}=1"
            )
        self._left -= 1


def _say(text: str) -> None:
    print(f"grail_seeded_sampling: {text}", file=sys.stderr, flush=True)  # the engine's log; its own logger is the engine's


_VLLM_HEAD = """start vLLM with --hf-overrides '{"head_dtype": "float32"}'"""
_SGLANG_HEAD = "start SGLang with --enable-fp32-lm-head"

_NO_PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
_VLLM_NEUTRAL = {"temperature": 0.0, "n": 1, "min_tokens": 0, **_NO_PENALTIES}
_VLLM_ABSENT = ("logit_bias", "allowed_token_ids", "bad_words", "structured_outputs", "thinking_token_budget")
_SGLANG_NEUTRAL = {"n": 1, "min_new_tokens": 0, **_NO_PENALTIES}
_SGLANG_ABSENT = ("logit_bias", "json_schema", "regex", "ebnf", "structural_tag")


def _refuse_other_sampling(params: Any, neutral: dict[str, float], absent: tuple[str, ...]) -> None:
    """An engine's SamplingParams: nothing that changes logits before we see them, or the choice after.

    Raises:
        ValueError: there is; HTTP 400 by the servers' own rules.
    """
    for name, value in neutral.items():
        if getattr(params, name, value) != value:
            raise ValueError(f"{name} is {getattr(params, name)!r}: the engine's own is {value!r} where draws are seeded")
    for name in absent:
        if getattr(params, name, None):
            raise ValueError(f"{name} cannot be used where draws are seeded")


def _drawing_in_vllm(params: Any) -> Drawing:
    """Raises ValueError as `drawing_of` and `_refuse_other_sampling`."""
    _refuse_other_sampling(params, _VLLM_NEUTRAL, _VLLM_ABSENT)
    return drawing_of(getattr(params, "extra_args", None))


def _drawing_in_sglang(said: dict[str, Any]) -> Drawing:
    """Parsed once a request; a greedy choice needs no look, since one token alone is left to choose.

    Raises:
        ValueError: as `drawing_of` and `_refuse_other_sampling`.
    """
    found: Drawing | None = said.get("__grail_drawing__")
    if found is None:
        _refuse_other_sampling(said["__req__"].sampling_params, _SGLANG_NEUTRAL, _SGLANG_ABSENT)
        found = said["__grail_drawing__"] = drawing_of(said)
    return found


class _V1Rows:
    """vLLM's V1 runner: a persistent batch that is told what changed, and lists that grow with each output token.

    It gives a processor no positions. Counting steps would be wrong (a chunk of a prompt draws nothing that is kept), so each
    step takes the length of each row's list, which holds a placeholder for a token still on its way: one `map(len, …)`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._requests: dict[int, tuple[Drawing, int, list[int]]] = {}
        self._outputs: list[list[int]] = []
        self._last = np.zeros(0, np.int64)
        self._words: Tensor | None = None
        self._width = 0

    def update(self, change: Any) -> None:
        """change: vLLM's BatchUpdate or None."""
        if change is None:
            return
        for index in change.removed:
            self._requests.pop(index, None)
        for index, params, prompt, output in change.added:
            if prompt is None:
                raise ValueError("a prompt of embeddings has no positions to draw by")
            self._requests[index] = (_drawing_in_vllm(params), len(prompt) - 1, output)
        for source, target, direction in change.moved:
            moved, other = self._requests.pop(source, None), self._requests.pop(target, None)
            if moved is not None:
                self._requests[target] = moved
            if direction.name == "SWAP" and other is not None:
                self._requests[source] = other
        rows = [self._requests.get(index) for index in range(change.batch_size)]
        known = [row for row in rows if row is not None]
        if len(known) != len(rows):
            raise RuntimeError(f"vLLM's batch has {len(rows)} rows, of which {len(rows) - len(known)} were never announced")
        self._outputs = [output for _, _, output in known]
        self._last = np.array([last for _, last, _ in known], np.int64)
        drawings = [drawing for drawing, _, _ in known]
        self._width = width_of(np.array([drawing.width for drawing in drawings]))
        self._words = uploaded(np.array(drawings, np.int64).reshape(-1, 4).T, self._device)

    def draws(self, context: None) -> bool:
        return bool(self._outputs)

    def apply(self, logits: Tensor) -> Tensor:
        count = len(self._outputs)
        if logits.shape[0] != count:
            raise RuntimeError(f"vLLM gave {logits.shape[0]} rows of logits for {count} requests; is it drafting tokens?")
        if count == 0 or self._words is None:
            return logits
        positions = self._last + np.fromiter(map(len, self._outputs), np.int64, count)
        return force(logits, draw(logits, self._words, uploaded(positions, self._device), self._width))


class _V2Rows:
    """vLLM's model runner V2: request slots, and each row's position on the device. No Python per request and step."""

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._ours, self._widths = np.zeros(slots, bool), np.zeros(slots, np.int64)
        self._host = np.tile(np.array([[*PLAIN, 0]], np.int64).T, slots)  # the last row: whether the slot is ours
        self._words = uploaded(self._host, device)
        self._changed = False

    def add(self, slot: int, params: Any) -> bool:
        """Whether the request is ours. Only the engine's own warm-up is not: the front end refuses every other."""
        ours = bool(getattr(params, "extra_args", None))
        drawing = _drawing_in_vllm(params) if ours else PLAIN
        self._ours[slot], self._widths[slot], self._host[:, slot] = ours, drawing.width, (*drawing, ours)
        self._changed = True
        return ours

    def flush(self) -> None:
        if self._changed:
            self._words, self._changed = uploaded(self._host, self._device), False

    def draws(self, context: Any) -> bool:
        return bool(self._ours[context.idx_mapping_np].all())

    def apply(self, logits: Tensor, context: Any) -> Tensor:
        batch = context.idx_mapping_np
        if not self._ours[batch].any():
            return logits
        if logits.shape[0] != context.expanded_idx_mapping.shape[0]:
            raise RuntimeError("vLLM gave other rows of logits than its batch has")
        words = self._words[:, context.expanded_idx_mapping.to(torch.int64)]
        tokens = draw(logits, words[:4], context.pos.to(torch.int64), width_of(self._widths[batch]))
        return force(logits, tokens, None if self.draws(context) else words[4] == 1)


def _vllm_class() -> type:
    from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

    class GrailLogitsProcessor(LogitsProcessorV1, LogitsProcessorV2):  # type: ignore[misc]
        """Both interfaces in one class, so that it fits whichever runner vLLM selects; the log says which."""

        def __init__(self, vllm_config: Any, *given: Any) -> None:
            # V1 gives (device, is_pin_memory), V2 (req_states).
            self._v1 = len(given) == 2
            device = torch.device(given[0] if self._v1 else given[0].device)
            if getattr(vllm_config, "speculative_config", None) is not None:
                raise RuntimeError("seeded sampling draws one token a step: start vLLM without speculative decoding")
            check_device(device)
            self._head = Head(_VLLM_HEAD)
            self._rows: Any = _V1Rows(device) if self._v1 else _V2Rows(device, given[0].max_num_reqs)
            _say(f"drawing by seed in vLLM's model runner {'V1' if self._v1 else 'V2'} on {device}")

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            _drawing_in_vllm(sampling_params)

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            self._rows.update(batch_update)

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            return bool(self._rows.add(req_idx, sampling_params))

        def apply_staged_writes(self) -> None:
            self._rows.flush()

        def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
            if self._rows.draws(ctx):
                self._head.look(logits)
            found: Tensor = self._rows.apply(logits) if self._v1 else self._rows.apply(logits, ctx)
            return found

    return GrailLogitsProcessor


def position_of(request: Any) -> int:
    """Of SGLang's request: the index of the last input token of the forward pass that is running now.

    Not `len(output_ids)`: with its overlapped scheduler SGLang appends a token after the next pass was launched. What a pass
    was launched for is counted at once, by `kv_committed_len`; that says the position, and the lists bound it.

    Raises:
        ValueError: they contradict each other, as where tokens are drafted or the request belongs to a session.
    """
    tokens = len(request.origin_input_ids) + len(request.output_ids)
    kv = getattr(request, "kv", request)
    committed = getattr(kv, "kv_committed_len", None)
    if committed is None:
        raise ValueError("this version of SGLang does not say how far a request has come (kv_committed_len)")
    if not (committed in (tokens, tokens + 1) or 0 < committed < len(request.origin_input_ids)):  # a chunk of a prompt
        raise ValueError(f"a pass over {committed} tokens for a request of {tokens}: positions are not what they seem")
    return int(committed) - 1


def _sglang_class() -> type:
    from sglang.srt.managers.schedule_batch import FINISH_ABORT
    from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

    class GrailCustomLogitProcessor(CustomLogitProcessor):  # type: ignore[misc]
        """SGLang calls it with the rows of the requests that name it, and a dict of each; a bad request ends alone."""

        # Of the process: SGLang makes an object anew for every batch that requests join.
        _head = Head(_SGLANG_HEAD)
        _checked: ClassVar[set[torch.device]] = set()

        def __call__(self, logits: Tensor, custom_param_list: list[dict[str, Any]] | None = None) -> Tensor:
            if logits.device not in self._checked:
                check_device(logits.device)
                self._checked.add(logits.device)
                _say(f"drawing by seed in SGLang on {logits.device}")
            said = custom_param_list or []
            if len(said) != logits.shape[0]:
                raise RuntimeError(f"SGLang gave {logits.shape[0]} rows of logits for {len(said)} requests")
            if len({id(one) for one in said}) != len(said):
                raise RuntimeError("seeded sampling draws one token a step: start SGLang without speculative decoding")
            self._head.look(logits)
            drawings, positions = [], []
            for one in said:
                request = one["__req__"]
                try:
                    drawing, position = _drawing_in_sglang(one), position_of(request)
                except ValueError as error:  # an exception here would end the server, and everybody's requests with it
                    request.to_finish = FINISH_ABORT(str(error), 400, "BadRequestError")
                    drawing, position = PLAIN, 0
                drawings.append(drawing)
                positions.append(position)
            words = np.array([(*drawing, position) for drawing, position in zip(drawings, positions, strict=True)], np.int64)
            table = uploaded(words.T, logits.device)
            return force(logits, draw(logits, table[:4], table[4], width_of(np.array([drawing.width for drawing in drawings]))))

    return GrailCustomLogitProcessor


_MADE_WHEN_ASKED_FOR = {"GrailLogitsProcessor": _vllm_class, "GrailCustomLogitProcessor": _sglang_class}


def __getattr__(name: str) -> type:
    """The engines' classes, made once; a pickle by reference and vLLM's `module:Class` find them here."""
    if name not in _MADE_WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    made = _MADE_WHEN_ASKED_FOR[name]()
    made.__module__, made.__qualname__ = __name__, name
    globals()[name] = made
    return made
