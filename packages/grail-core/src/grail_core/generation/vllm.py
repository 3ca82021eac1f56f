"""vLLM's server as a generator: `POST /inference/v1/generate`, token ids in and out. Written against 0.32 and 0.33.

That path rather than `/v1/completions`, which in 0.32 does not say which weights drew a row, whatever it is asked for. It needs
`--enable-scale-out`. No text is made.

vLLM reads new weights layer by layer into the old ones and has no way back: a reload that did not say 200 leaves nobody knows
what. Its label is independent of the weights. So the label is put on *before* the reload, while the engine is paused, and must
be there after it: a server that was started again in between has lost it, and cannot get it from us for weights that it lacks.
Control needs `VLLM_SERVER_DEV_MODE=1`; an API key does not guard these paths, the loopback device does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grail_core.errors import EngineError
from grail_core.generation.answers import EngineAnswer, most_bytes, read_vllm
from grail_core.generation.base import ServedWeights
from grail_core.generation.http import Ask, RefusedError, TransientError
from grail_core.generation.options import EngineOptions
from grail_core.generation.plugin import drawing_keys, signed_seed
from grail_core.generation.remote import LOAD_S, ROW_S, RemoteGenerator
from grail_core.generation.row_requests import RETRY_S
from grail_core.generation.rows import Row
from grail_core.protocol.policy import GenerationPolicy
from grail_core.telemetry import get_logger

log = get_logger(__name__)

_UNCONFIRMED = "grail-unconfirmed"
_REQUEST_PREFIX = "generate-tokens-"  # of a request's id in its answer


class VllmGenerator(RemoteGenerator):
    """`Generator` over a vLLM server with our plug-in; arguments as `RemoteGenerator`.

    Args:
        sleep: give the memory of weights and cache back before new weights are read (sleep of level 2), for machines where
            something else needs it then; the server needs `--enable-sleep-mode`.
    """

    def __init__(
        self,
        url: str,
        options: EngineOptions,
        *,
        numerics_class: str,
        api_key: str | None = None,
        retry_s: float = RETRY_S,
        sleep: bool = False,
    ) -> None:
        super().__init__(url, options, numerics_class=numerics_class, api_key=api_key, retry_s=retry_s)
        self._sleep = sleep

    async def _ask_row(self, weights: ServedWeights, row: Row, so_far: tuple[int, ...], request_id: str) -> EngineAnswer:
        prompt = (*row.prompt, *so_far)
        limit = row.limit - len(so_far)
        most = most_bytes(len(prompt), limit)
        body = self.request_body(weights, prompt, row.seed, limit, request_id, row.policy)
        answer = read_vllm(await self._http.ask(Ask("POST", "/inference/v1/generate", body, ROW_S, most)), most=most)
        return replace(answer, request_id=answer.request_id.removeprefix(_REQUEST_PREFIX))

    def request_body(
        self,
        weights: ServedWeights,
        prompt: Sequence[int],
        seed: int,
        limit: int,
        request_id: str,
        policy: GenerationPolicy | None = None,
    ) -> dict[str, Any]:
        """One request's JSON: at most `limit` tokens after `prompt`, by `policy` or that of the weights."""
        sampling = {
            "n": 1,
            "max_tokens": limit,
            "min_tokens": 0,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "logit_bias": None,
            "allowed_token_ids": None,
            "bad_words": [],
            "seed": signed_seed(seed),
            "extra_args": drawing_keys(policy or weights.policy, seed),
            "stop": [],
            "stop_token_ids": sorted(weights.end_tokens),
            "include_stop_str_in_output": True,
            "ignore_eos": True,
            "detokenize": False,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": True,
            "structured_outputs": None,
            "thinking_token_budget": None,
            "repetition_detection": None,
            "watermarking": None,
            "logprobs": None,
            "prompt_logprobs": None,
        }
        return {
            "model": None,  # the only one there is
            "request_id": request_id,
            "token_ids": list(prompt),
            "sampling_params": sampling,
            "output_mode": "tokens",
            "stream": False,
            "return_token_ids": True,
        }

    async def _abort(self, request_ids: Sequence[str]) -> None:
        """A closed connection ends its request at once here."""

    def _reported(self) -> str:
        return self._text(self._call("GET", "/weight_info"), "weight_version")

    def _label_started(self, version: str) -> None:
        self._send("/update_weight_version", {"new_version": version})

    def _roll(self, weights: ServedWeights, held: ServedWeights | None) -> bool:
        self._send("/pause?mode=abort")
        self._send("/update_weight_version", {"new_version": weights.version})
        try:
            self._load(weights)
            if self._reported() != weights.version:
                raise self._failed(f"the engine was started again while it loaded {weights.version[:16]}…")
        except BaseException:
            self._take_label_off()
            raise
        self._send("/resume")
        if self._flag(self._call("GET", "/is_paused"), "is_paused"):
            raise self._failed("the engine stays paused")
        return True

    def _load(self, weights: ServedWeights) -> None:
        if self._sleep:
            self._send("/sleep?level=2&mode=abort")
            if not self._flag(self._call("GET", "/is_sleeping"), "is_sleeping"):
                raise self._failed("the engine does not sleep: it needs --enable-sleep-mode")
            self._send("/wake_up?tags=weights")
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(weights.folder)}}
        self._send("/collective_rpc", reload, seconds=LOAD_S)
        if self._sleep:
            self._send("/wake_up?tags=kv_cache")
        if not self._flag(self._call("POST", "/reset_prefix_cache"), "success"):
            raise self._failed("the engine kept keys and values of other weights (reset_prefix_cache)")

    def _take_label_off(self) -> None:
        """So that who looks at the server from outside is not told what nobody knows. Nothing of ours hangs on it."""
        try:
            self._send("/update_weight_version", {"new_version": _UNCONFIRMED})
        except (TransientError, RefusedError, EngineError) as error:
            log.event("label_stays", level=logging.WARNING, why=str(error), url=self.url)
