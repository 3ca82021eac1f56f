"""SGLang's server as a generator: `POST /generate`, token ids in and out. Written against 0.5.23.

Nothing of drawing is left to the server or to the model's folder: every value is in every request, nulls too, since a null
keeps `--preferred-sampling-params` out. One thing cannot be said in a request: `ignore_eos` would switch off `stop_token_ids`
together with the end tokens of folder and tokenizer, so it stays off, and where one of these ends a row that the network would
not end, `rows` asks for the rest of it.

A failed update is not believed to have left the old weights in place: SGLang 0.5.23 "rolls back" by reading the *new* folder
again. Its checksum of all weights (`/weights_checker`) decides, taken on the device: one read of the weights, which is what a
decoding step costs too, and a hash a tensor. The same checksum shows an update that changed the label alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from grail_core.errors import EngineError
from grail_core.generation.answers import EngineAnswer, UnusableAnswerError, most_bytes, optional_member, read_sglang
from grail_core.generation.base import Drawn, ServedWeights
from grail_core.generation.http import Ask, RefusedError
from grail_core.generation.plugin import SGLANG_PROCESSOR, drawing_keys, signed_seed
from grail_core.generation.policies import refuse_truncation, truncates
from grail_core.generation.remote import ABORT_S, LOAD_S, ROW_S, RemoteGenerator
from grail_core.generation.rows import Row
from grail_core.protocol.policy import GenerationPolicy
from grail_core.telemetry import get_logger

log = get_logger(__name__)


class SglangGenerator(RemoteGenerator):
    """`Generator` over an SGLang server; arguments as `RemoteGenerator`.

    With `options.native_sampling` the server must run in its deterministic mode, and draws by itself where the policy has
    neither top-k nor top-p; else the server needs `--enable-custom-logit-processor` and our plug-in on its path.

    By itself it draws as the protocol says only while nothing else is in its batch: a row that our processor draws sends its
    neighbours through a path that hashes sorted columns, and the batch stays on it until it is empty, which nobody sees from
    here. So after the first call with a policy that truncates, our processor draws every row, to the same tokens, until weights
    are rolled, which empties the batch. Calls that overlap and differ in this are not for native sampling; so of rows that join
    while others run, it takes those alone that do not truncate.
    """

    spare_tokens = 2  # the server takes one token less than its context, and keeps one for itself

    _checksum: str | None = None  # of the weights in `version`
    _processor_in_batch = False  # rows that our processor draws may be in the server's batch

    async def _ask_row(self, weights: ServedWeights, row: Row, so_far: tuple[int, ...], request_id: str) -> EngineAnswer:
        prompt = (*row.prompt, *so_far)
        limit = row.limit - len(so_far)
        most = most_bytes(len(prompt), limit)
        body = self.request_body(weights, prompt, row.seed, limit, request_id, row.policy)
        return read_sglang(await self._http.ask(Ask("POST", "/generate", body, ROW_S, most)), most=most)

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
        policy = policy or weights.policy
        native = self._native(policy)
        sampling = {
            "max_new_tokens": limit,
            "min_new_tokens": 0,
            "temperature": policy.temperature if native else 0.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "logit_bias": None,
            "sampling_seed": signed_seed(seed),
            "custom_params": None if native else drawing_keys(policy, seed),
            "n": 1,
            "beam_width": None,
            "stop": None,
            "stop_regex": None,
            "stop_token_ids": sorted(weights.end_tokens),
            "ignore_eos": False,
            "no_stop_trim": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": True,
            "json_schema": None,
            "regex": None,
            "ebnf": None,
            "structural_tag": None,
            "stream_interval": None,
            "watermark": None,
        }
        return {
            "rid": request_id,
            "input_ids": list(prompt),
            "sampling_params": sampling,
            "custom_logit_processor": None if native else SGLANG_PROCESSOR,
            "stream": False,
            "return_logprob": False,
        }

    def _native(self, policy: GenerationPolicy) -> bool:
        return self._options.native_sampling and not self._processor_in_batch and not truncates(policy)

    def _draw(self, weights: ServedWeights, rows: Sequence[Row], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        if any(truncates(row.policy) for row in rows):
            self._processor_in_batch = True
        return super()._draw(weights, rows, cancelled)

    def check_joining_policy(self, policy: GenerationPolicy) -> None:
        super().check_joining_policy(policy)
        if self._options.native_sampling:
            refuse_truncation(policy, self.url)

    async def _abort(self, request_ids: Sequence[str]) -> None:
        # One by one: `abort_all` would end other users' requests too. Without it the server looks for closed connections
        # every few seconds only.
        await self._abort_by(
            [Ask("POST", "/abort_request", {"rid": name, "abort_all": False}, ABORT_S) for name in request_ids]
        )

    def _reported(self) -> str:
        return self._text(self._call("GET", "/model_info"), "weight_version")

    def _label_started(self, version: str) -> None:
        """The command line has `--weight-version`; what is left is to know the weights again."""
        self._checksum = self._weights_checksum()

    def _roll(self, weights: ServedWeights, held: ServedWeights | None) -> bool:
        before = None if held is None else self._checksum
        self._checksum = None
        self._send("/pause_generation", {"mode": "abort"})
        update = {
            "model_path": str(weights.folder),
            "load_format": "auto",
            "abort_all_requests": True,
            "weight_version": weights.version,
            "is_async": False,
            "keep_pause": False,
            "recapture_cuda_graph": False,
            "flush_cache": True,
        }
        try:
            answer = self._call("POST", "/update_weights_from_disk", update, seconds=LOAD_S)
            refused = None if self._flag(answer, "success") else self._text(answer, "message")
        except RefusedError as error:
            refused = str(error)
        if refused is not None:
            return self._after_refusal(refused, held, before)
        info = self._call("GET", "/model_info")
        if self._text(info, "weight_version") != weights.version or self._text(info, "model_path") != str(weights.folder):
            raise self._failed(f"the engine says that it loaded {weights.version[:16]}…, but names other weights")
        after = self._weights_checksum()
        if held is not None and before is not None and after == before and held.version != weights.version:
            raise self._failed(f"the engine's label is {weights.version[:16]}…, but its weights are what they were")
        self._send("/continue_generation", {"torch_empty_cache": True})
        self._checksum, self._processor_in_batch = after, False
        return True

    def _after_refusal(self, refused: str, held: ServedWeights | None, before: str | None) -> bool:
        """False where `held` is certainly what the server has; it goes on with that."""
        if held is None or before is None or self._reported() != held.version or self._weights_checksum() != before:
            raise EngineError(
                f"the engine did not take new weights, and nobody knows what it has now: {refused}",
                where=self.url,
                hint="start it again; until weights are loaded whole, nothing is drawn",
            )
        log.event("weights_refused", why=refused, serves=held.version, url=self.url)
        self._send("/continue_generation", {"torch_empty_cache": True})
        self._checksum = before
        return False

    def _weights_checksum(self) -> str | None:
        """Of all ranks' weights; None where this server has none to say."""
        try:
            answer = self._call("POST", "/weights_checker", {"action": "checksum"}, seconds=LOAD_S)
        except RefusedError as error:
            log.event("no_weights_checksum", why=str(error), url=self.url)
            return None
        found = optional_member(answer, "per_engine_checksum")
        if found is None:
            return None
        if not isinstance(found.value, str):
            raise UnusableAnswerError("the engine's checksum of its weights is no text")
        return found.value
