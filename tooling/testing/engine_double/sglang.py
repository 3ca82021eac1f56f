"""SGLang 0.5.23's interface over the engine: its own `/generate`, and what controls generation and weights.

Its defaults are its own and not the folder's (`max_new_tokens` 128, `temperature` 1, …), but for end tokens: those of
config.json, of generation_config.json and of the tokenizer end a row, and `ignore_eos` switches a request's own off with them.
A pause by `abort` ends what runs and lets new requests wait unanswered; `in_place` keeps rows and their cache, `retract` rows
alone. An aborted row draws one more token first.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grail_core.errors import CheckpointError
from tooling.testing.engine_double.arguments import Setting
from tooling.testing.engine_double.engine import Engine
from tooling.testing.engine_double.replies import Told, finished, hang_up, progress, whole_numbers, with_fault
from tooling.testing.engine_double.requests import Request
from tooling.testing.engine_double.setup import VERSIONS
from tooling.testing.engine_double.sglang_sampling import bad, sampling_of
from tooling.testing.engine_double.updates import update_with
from tooling.testing.engine_double.web import Call, Reply, Route, Routes, Stream
from tooling.testing.engine_double.weights import digest_of

_FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)
_NOT_FLUSHED = (
    "Weights were updated, but the cache was not flushed because requests are still running or queued. "
    "Retract or finish them, then call /flush_cache."
)


@dataclass(frozen=True)
class _Row:
    request: Request
    keeps_logprobs: bool


class SglangInterface:
    """Routes over one engine.

    Args:
        setting: what the flags decided. never_healthy: a fault of this process's life.
    """

    def __init__(self, engine: Engine, setting: Setting, *, never_healthy: bool = False) -> None:
        self._engine = engine
        self._setting = setting
        self._never_healthy = never_healthy
        self._model_path = str(setting.engine.folder)
        self._gate = threading.Condition()
        self._paused = False
        self._updating = False
        self._inside = 0  # requests that have passed the gate
        self._names: dict[str, Request] = {}

    def routes(self) -> Routes:
        both = ("GET", "POST")
        info, server, health = (
            Route("info", self._info),
            Route("info", self._server),
            Route("health", self._health, guarded=False),
        )
        routes: dict[tuple[str, str], Route] = {
            ("POST", "/generate"): Route("generate", self._generate),
            ("PUT", "/generate"): Route("generate", self._generate),
            ("POST", "/abort_request"): Route("abort", self._abort),
            ("POST", "/pause_generation"): Route("pause", self._pause),
            ("POST", "/continue_generation"): Route("resume", self._resume),
            ("POST", "/update_weights_from_disk"): Route("update", self._update),
            ("POST", "/update_weight_version"): Route("label", self._relabel),
            ("GET", "/model_info"): info,
            ("GET", "/get_model_info"): info,
            ("GET", "/server_info"): server,
            ("GET", "/get_server_info"): server,
            ("GET", "/v1/models"): Route("info", self._models),
            ("GET", "/health"): health,
            ("GET", "/health_generate"): health,
        }
        for method in both:
            routes[method, "/flush_cache"] = Route("flush", self._flush)
            routes[method, "/weights_checker"] = Route("info", self._checker)
        return routes

    # Generation.

    def _generate(self, call: Call) -> Reply | Stream:
        body = _object(call)
        rows, single = self._rows(body)
        names = [row.request.name for row in rows]
        with self._gate:
            if len(set(names)) < len(names) or any(name in self._names for name in names):
                raise bad(f"Duplicate request ID detected: {names[0]}")
            self._names.update((row.request.name, row.request) for row in rows)
        requests = [row.request for row in rows]
        try:
            self._enter(call)
        except ConnectionAbortedError:
            self._leave(rows, inside=False)
            raise
        with_fault(requests, call.fault)
        self._engine.submit(*requests)
        if body.get("stream") is True:
            events = self._events(rows, single, call)
            return Stream(events, lambda: hang_up(self._engine, requests))
        try:
            told = finished(self._engine, requests, call.gone)
        finally:
            self._leave(rows)
        answers = [self._answer(row, one) for row, one in zip(rows, told, strict=True)]
        return Reply.json(answers[0] if single else answers)

    def _events(self, rows: list[_Row], single: bool, call: Call) -> Iterator[str]:
        try:
            for index, told in progress(self._engine, [row.request for row in rows], call.gone):
                answer = self._answer(rows[index], told)
                yield json.dumps(answer if single else {**answer, "index": index})
            yield "[DONE]"
        finally:
            self._leave(rows)

    def _enter(self, call: Call) -> None:
        """Past a pause and a running update, or never, if the client hangs up before."""
        with self._gate:
            while self._paused or self._updating:
                self._gate.wait(0.05)
                if call.gone():
                    raise ConnectionAbortedError("the client has hung up")
            self._inside += 1

    def _leave(self, rows: list[_Row], *, inside: bool = True) -> None:
        with self._gate:
            for row in rows:
                self._names.pop(row.request.name, None)
            if inside:
                self._inside -= 1
            self._gate.notify_all()

    def _rows(self, body: Mapping[str, Any]) -> tuple[list[_Row], bool]:
        ids = body.get("input_ids")
        if not isinstance(ids, list) or not ids:
            raise bad("Either text, input_ids or input_embeds should be provided." if ids is None else "input_ids is empty")
        single = whole_numbers(ids)
        if not single and not all(whole_numbers(prompt) and prompt for prompt in ids):
            raise bad("input_ids: a list of integers or a list of such lists")
        prompts = [ids] if single else ids
        names = _spread(body.get("rid"), len(prompts), single, "rid")
        if isinstance(body.get("rid"), str) and not single:
            names = [f"{name}_{index}" for index, name in enumerate(names)]
        parameters = _spread(body.get("sampling_params") or {}, len(prompts), single, "sampling_params")
        processors = _spread(body.get("custom_logit_processor"), len(prompts), single, "custom_logit_processor")
        logprobs = _spread(body.get("return_logprob"), len(prompts), single, "return_logprob")
        rows = []
        for prompt, name, given, processor, wanted in zip(prompts, names, parameters, processors, logprobs, strict=True):
            sampling = sampling_of(self._engine, self._setting, given, processor, len(prompt), bool(wanted))
            rows.append(_Row(Request(name or uuid.uuid4().hex, tuple(prompt), sampling), bool(wanted)))
        return rows, single

    def _answer(self, row: _Row, told: Told) -> dict[str, Any]:
        meta: dict[str, Any] = {"id": row.request.name, "finish_reason": _finish_reason(told), "weight_version": told.label}
        meta["completion_tokens"] = len(told.tokens)
        meta["e2e_latency"] = 0.0
        if not told.waited_only:
            spans = [{"version": span.version, "start": span.start, "end": span.end} for span in told.spans]
            meta |= {
                "prompt_tokens": told.prompt_tokens,
                "num_retractions": told.retractions,
                "reasoning_tokens": 0,
                "cached_tokens": told.cached_tokens,
                "weight_versions": spans,
                "weight_version": spans[-1]["version"],
            }
        if row.keeps_logprobs:
            meta["output_token_logprobs"] = [
                [logprob, token, None] for logprob, token in zip(told.logprobs, told.tokens, strict=True)
            ]
            meta["input_token_logprobs"] = []
        answer: dict[str, Any] = {"output_ids": list(told.tokens), "meta_info": meta}
        return answer if self._setting.without_text else {"text": self._setting.text(told.tokens), **answer}

    # Control.

    def _abort(self, call: Call) -> Reply:
        body = _object(call)
        name, everything = body.get("rid") or "", body.get("abort_all") is True
        if everything:
            self._engine.abort(lambda row: True)
        elif name in self._names:  # the engine then takes the name for a prefix
            self._engine.abort(lambda row: row.name.startswith(name))
        return Reply(200)

    def _pause(self, call: Call) -> Reply:
        mode = _object(call).get("mode", "abort")
        if mode not in ("abort", "retract", "in_place"):
            raise bad(f"mode is abort, retract or in_place, not {mode!r}")
        with self._gate:
            self._paused = True
        if mode == "abort":
            with self._gate:
                while self._inside:
                    self._engine.abort(lambda row: True)
                    self._gate.wait(0.02)
        else:
            self._engine.freeze()
            if mode == "retract":
                self._engine.retract()
        return Reply.json({"message": "Generation paused successfully.", "status": "ok"})

    def _resume(self, call: Call) -> Reply:
        _object(call)
        self._engine.thaw()
        with self._gate:
            self._paused = False
            self._gate.notify_all()
        return Reply.json({"message": "Generation continued successfully.", "status": "ok"})

    def _update(self, call: Call) -> Reply:
        body = _object(call)
        folder, label = body.get("model_path"), body.get("weight_version")
        if not isinstance(folder, str) or not (label is None or isinstance(label, str)):
            raise bad("model_path: a string; weight_version: a string or nothing")
        if body.get("abort_all_requests") is True:
            self._engine.abort(lambda row: True)
        with self._gate:
            while self._updating:
                self._gate.wait()
            self._updating = not self._paused
            while self._updating and self._inside:
                self._gate.wait()
        try:
            success, message = self._apply(folder, label, call, flush=body.get("flush_cache", True) is not False)
        finally:
            with self._gate:
                self._updating = False
                self._gate.notify_all()
        value = {"success": success, "message": message, "num_paused_requests": 0}
        return Reply.json(value, 200 if success else 400)

    def _apply(self, folder: str, label: str | None, call: Call, *, flush: bool) -> tuple[bool, str]:
        def action() -> tuple[bool, str]:
            try:
                update_with(self._engine, folder, call.fault)
            except CheckpointError as error:
                return False, f"Failed to update weights: {error.what}.\nRolling back to original weights."
            self._model_path = folder
            if label is not None:
                self._engine.relabel(label)
            if flush and not self._engine.flush():
                return False, _NOT_FLUSHED
            said = "" if label is None else f" Weight version updated to {label}."
            return True, f"Succeeded to update model weights.{said}"

        success, message = self._engine.between(action)
        if call.fault is not None and call.fault.kind == "update_then_error":
            raise RuntimeError("the scheduler did not answer")
        return success, message

    def _relabel(self, call: Call) -> Reply:
        body = _object(call)
        label = body.get("new_version")
        if not isinstance(label, str):
            raise bad("new_version: a string")
        if call.fault is not None:
            raise RuntimeError("the scheduler did not answer")
        if body.get("abort_all_requests", True) is not False:
            self._engine.abort(lambda row: True)
        self._engine.relabel(label)
        return Reply.json({"success": True, "message": f"Weight version updated to {label}", "new_version": label})

    def _flush(self, call: Call) -> Reply:
        kind = call.fault.kind if call.fault is not None else None
        if kind != "flush_ignored" and (kind == "flush_refused" or not self._engine.flush()):
            return Reply(400, b"Flush cache failed.\n", "text/plain; charset=utf-8")
        return Reply(200, _FLUSHED.encode(), "text/plain; charset=utf-8")

    def _checker(self, call: Call) -> Reply:
        action = (_object(call) if call.body else {}).get("action", "checksum")
        if action != "checksum":
            return Reply.json({"success": False, "message": f"Unsupported action: {action}"}, 400)

        def sums() -> tuple[dict[str, str], str]:
            tensors = self._engine.model.state()
            each = {name: hashlib.sha256(value.float().numpy().tobytes()).hexdigest()[:16] for name, value in tensors.items()}
            return each, digest_of(self._engine.model)

        each, whole = self._engine.between(sums)
        rank = {"role": "target", "tp_rank": 0, "tp_size": 1, "dp_rank": 0, "dp_size": 1, "pp_rank": 0, "pp_size": 1}
        ranks = [{"checksums": each, "per_gpu_checksum": whole[:16], "parallelism_info": rank}]
        return Reply.json({"success": True, "message": "Success", "ranks": ranks, "per_engine_checksum": whole})

    # What it says of itself.

    def _health(self, call: Call) -> Reply:
        """The engine makes a token to know it: while it is paused nothing comes, and it is not healthy."""
        with self._gate:
            stands = self._paused
        return Reply(503 if self._never_healthy or stands or self._engine.frozen else 200)

    def _info(self, call: Call) -> Reply:
        return Reply.json(
            {
                "model_path": self._model_path,
                "served_model_name": self._setting.name,
                "tokenizer_path": self._model_path,
                "is_generation": True,
                "preferred_sampling_params": None,
                "weight_version": self._engine.label,
                "load_format": "auto",
                "model_type": self._engine.model.module.config.model_type,
                "architectures": self._engine.model.module.config.architectures,
            }
        )

    def _server(self, call: Call) -> Reply:
        with self._engine.changed:
            state = {"num_running_reqs": len(self._engine.running), "num_waiting_reqs": len(self._engine.waiting)}
        flags = {name: value for name, value in self._setting.flags.items() if "key" not in name}
        return Reply.json({**flags, "version": VERSIONS["sglang"], "frontend": "python", "internal_states": [state]})

    def _models(self, call: Call) -> Reply:
        card = {"id": self._setting.name, "object": "model", "owned_by": "sglang", "max_model_len": self._engine.context}
        return Reply.json({"object": "list", "data": [card]})


def _object(call: Call) -> dict[str, Any]:
    try:
        value = call.value()
    except ValueError as error:
        raise bad(f"JSON decode error: {error}") from error
    if not isinstance(value, dict):
        raise bad("Input should be a valid dictionary")
    return value


def _spread(value: Any, count: int, single: bool, name: str) -> list[Any]:
    """One value for each row: a list as it is, anything else for all."""
    if single or not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise bad(f"{name}: {len(value)} for {count} prompts")
    return value


def _finish_reason(told: Told) -> dict[str, Any] | None:
    if told.finish is None:
        return None
    if told.finish == "stop":
        return {"type": "stop", "matched": told.matched}
    if told.finish == "length":
        return {"type": "length", "length": len(told.tokens)}
    if told.waited_only:
        return {"type": "abort", "message": told.message}
    return {"type": "abort", "message": told.message, "status_code": None, "err_type": None}
