"""vLLM 0.33's interface over the engine: completions, tokens in and out, and the development endpoints that control weights.

The folder's generation_config.json fills in what a request leaves out (`--generation-config auto`), its end tokens end rows,
and a completion has 16 tokens where nothing says how many. All prompts of one request share its seed and its arguments: of
several alike every one gets the same tokens. A pause by `abort` or `wait` answers new requests with 503 until it is over;
`keep` queues them, and lets rows that ran go on with the cache of the weights from before. `reload_weights` changes no label.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from grail_core.errors import CheckpointError
from tooling.testing.engine_double.arguments import Setting
from tooling.testing.engine_double.engine import Engine
from tooling.testing.engine_double.replies import Told, finished, hang_up, progress, whole_numbers, with_fault
from tooling.testing.engine_double.requests import Request
from tooling.testing.engine_double.setup import VERSIONS
from tooling.testing.engine_double.updates import update_with
from tooling.testing.engine_double.vllm_sampling import SAMPLING_FIELDS, bad, sampling_of
from tooling.testing.engine_double.web import Call, Refused, Reply, Route, Routes, Stream
from tooling.testing.engine_double.weights import digest_of


class VllmInterface:
    """Routes over one engine.

    Args:
        setting: what the flags decided. never_healthy: a fault of this process's life.
    """

    def __init__(self, engine: Engine, setting: Setting, *, never_healthy: bool = False) -> None:
        self._engine = engine
        self._setting = setting
        self._never_healthy = never_healthy
        self._refusing = False  # new requests, since a pause
        self._sleeping = False
        self._discarded = False

    def routes(self) -> Routes:
        everywhere = self._setting.guards_everything
        routes = {
            ("POST", "/v1/completions"): Route("generate", self._completions),
            ("GET", "/v1/models"): Route("info", self._models),
            ("POST", "/inference/v1/generate"): Route("generate", self._tokens),
            ("GET", "/health"): Route("health", self._health, guarded=False),
            ("GET", "/version"): Route("info", lambda call: Reply.json({"version": VERSIONS["vllm"]}), guarded=everywhere),
        }
        if not self._setting.development:
            return routes
        dev = {
            ("POST", "/pause"): Route("pause", self._pause),
            ("POST", "/resume"): Route("resume", self._resume),
            ("GET", "/is_paused"): Route("info", lambda call: Reply.json({"is_paused": self._engine.frozen})),
            ("POST", "/sleep"): Route("pause", self._sleep),
            ("POST", "/wake_up"): Route("resume", self._wake_up),
            ("GET", "/is_sleeping"): Route("info", lambda call: Reply.json({"is_sleeping": self._sleeping})),
            ("POST", "/collective_rpc"): Route("update", self._collective_rpc),
            ("POST", "/reset_prefix_cache"): Route("flush", self._flush),
            ("POST", "/abort_requests"): Route("abort", self._abort),
            ("POST", "/update_weight_version"): Route("label", self._relabel),
            ("GET", "/weight_info"): Route("info", lambda call: Reply.json({"weight_version": self._engine.label})),
            ("POST", "/weight_checker"): Route("info", self._checker),
            ("GET", "/server_info"): Route("info", self._server),
            ("GET", "/get_world_size"): Route("info", lambda call: Reply.json({"world_size": 1})),
        }
        return routes | {key: Route(route.occasion, route.handler, guarded=everywhere) for key, route in dev.items()}

    # Generation.

    def _completions(self, call: Call) -> Reply | Stream:
        body = _object(call)
        self._check_model(body)
        prompt = body.get("prompt")
        if whole_numbers(prompt) and prompt:
            prompts = [prompt]
        elif isinstance(prompt, list) and prompt and all(whole_numbers(item) and item for item in prompt):
            prompts = prompt
        else:
            raise bad("prompt: a list of token ids, or a list of such lists; text is not doubled", "prompt")
        if body.get("n") not in (None, 1) or body.get("echo") or body.get("use_beam_search"):
            raise bad("n, echo and beams are not doubled", "n")
        name = f"cmpl-{body.get('request_id') or uuid.uuid4().hex}"
        wanted = body.get("logprobs") is not None
        default = body.get("max_tokens", 16)
        samplings = [
            sampling_of(self._engine, self._setting, body, item, default, body.get("vllm_xargs"), wanted) for item in prompts
        ]
        rows = [Request(f"{name}-{i}", tuple(item), samplings[i]) for i, item in enumerate(prompts)]
        self._submit(rows, call)
        if body.get("stream") is True:
            return Stream(self._chunks(rows, name, body, call), lambda: hang_up(self._engine, rows))
        told = finished(self._engine, rows, call.gone)
        choices = [self._choice(i, one, body, row) for i, (one, row) in enumerate(zip(told, rows, strict=True))]
        drawn, asked = sum(len(one.tokens) for one in told), sum(one.prompt_tokens for one in told)
        usage = {"prompt_tokens": asked, "completion_tokens": drawn, "total_tokens": asked + drawn}
        return Reply.json({**self._head(name), "choices": choices, "usage": usage})

    def _chunks(self, rows: list[Request], name: str, body: Mapping[str, Any], call: Call) -> Iterator[str]:
        sent = [0] * len(rows)
        for index, told in progress(self._engine, rows, call.gone):
            choice = self._choice(index, told, body, rows[index] if not sent[index] else None, start=sent[index])
            if told.finish is None:
                choice.pop("weight_versions", None)
            sent[index] = len(told.tokens)
            yield json.dumps({**self._head(name), "choices": [choice]})
        yield "[DONE]"

    def _tokens(self, call: Call) -> Reply | Stream:
        if not self._setting.scale_out:
            raise Refused(
                403, {"error": {"message": "start the server with --enable-scale-out", "type": "Forbidden", "code": 403}}
            )
        body = _object(call)
        self._check_model(body)
        prompt, given = body.get("token_ids"), body.get("sampling_params")
        if not whole_numbers(prompt) or not prompt or not isinstance(given, dict):
            raise bad("token_ids: a list of token ids; sampling_params: an object", "token_ids")
        if unknown := sorted(given.keys() - SAMPLING_FIELDS):
            raise bad(f"Object contains unknown field `{unknown[0]}`", "sampling_params")
        if given.get("n", 1) != 1 or body.get("output_mode", "tokens") != "tokens":
            raise bad("n and other outputs than tokens are not doubled", "n")
        name = f"generate-tokens-{body.get('request_id') or uuid.uuid4().hex}"
        wanted = given.get("logprobs") is not None
        row = Request(
            name,
            tuple(prompt),
            sampling_of(self._engine, self._setting, given, prompt, given.get("max_tokens"), given.get("extra_args"), wanted),
        )
        self._submit([row], call)
        if body.get("stream") is True:
            return Stream(self._token_chunks(row, name, call), lambda: hang_up(self._engine, [row]))
        told = finished(self._engine, [row], call.gone)[0]
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": told.finish,
            "stop_reason": _stop_reason(told, row),
            "token_ids": list(told.tokens),
        }
        choice |= {"logprobs": _contents(told) if wanted else None, "weight_versions": _spans(told)}
        answer = {"request_id": name, "model": self._setting.name, "output_mode": "tokens", "choices": [choice]}
        return Reply.json(answer | {"prompt_token_ids": prompt if body.get("return_token_ids") else None})

    def _token_chunks(self, row: Request, name: str, call: Call) -> Iterator[str]:
        sent = 0
        for _, told in progress(self._engine, [row], call.gone):
            choice: dict[str, Any] = {"index": 0, "finish_reason": told.finish, "token_ids": list(told.tokens[sent:])}
            if told.finish is not None:
                choice |= {"stop_reason": _stop_reason(told, row), "weight_versions": _spans(told)}
            sent = len(told.tokens)
            yield json.dumps({"request_id": name, "output_mode": "tokens", "choices": [choice]})
        yield "[DONE]"

    def _submit(self, rows: list[Request], call: Call) -> None:
        if self._refusing:
            message = "Generation is paused. Please retry after it resumes."
            raise Refused(503, {"error": {"message": message, "type": "ServiceUnavailableError", "param": None, "code": 503}})
        with_fault(rows, call.fault)
        self._engine.submit(*rows)

    def _check_model(self, body: Mapping[str, Any]) -> None:
        model = body.get("model")
        if model not in (None, self._setting.name):
            message = f"The model `{model}` does not exist."
            raise Refused(404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}})

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "text_completion", "created": int(time.time()), "model": self._setting.name}

    def _choice(self, index: int, told: Told, body: Mapping[str, Any], row: Request | None, start: int = 0) -> dict[str, Any]:
        """One choice of an answer, or of a chunk from token `start` on; `row` where the prompt is told too."""
        tokens = told.tokens[start:]
        choice: dict[str, Any] = {"index": index, "text": self._setting.text(tokens), "finish_reason": told.finish}
        choice["stop_reason"] = told.matched if told.matched in (body.get("stop_token_ids") or ()) else None
        choice["logprobs"] = None
        if body.get("logprobs") is not None:
            words = [f"token_id:{token}" for token in tokens]
            chances = told.logprobs[start:]
            choice["logprobs"] = {
                "text_offset": [0] * len(tokens), "tokens": words, "token_logprobs": list(chances),
                "top_logprobs": [{word: chance} for word, chance in zip(words, chances, strict=True)],
            }  # fmt: skip
        if body.get("return_token_ids"):
            choice["token_ids"] = list(tokens)
            choice["prompt_token_ids"] = list(row.prompt) if row is not None else None
        if body.get("return_weight_versions"):
            choice["weight_versions"] = _spans(told)
        return choice

    # Control.

    def _pause(self, call: Call) -> Reply:
        mode = call.first("mode", "abort")
        if mode not in ("abort", "wait", "keep"):
            raise bad(f"Input should be 'abort', 'wait' or 'keep', not {mode!r}", "mode")
        self._stop_generation(mode)
        if mode != "keep" and call.first("clear_cache", "true").lower() in ("true", "1"):
            self._engine.flush()
        return Reply.json({"status": "paused"})

    def _stop_generation(self, mode: str) -> None:
        self._refusing = mode != "keep"
        if mode == "abort":
            self._engine.abort(lambda row: True)
        elif mode == "wait":
            with self._engine.changed:
                while self._engine.busy():
                    self._engine.changed.wait()
        self._engine.freeze()

    def _resume(self, call: Call) -> Reply:
        self._refusing = False
        self._engine.thaw()
        return Reply.json({"status": "resumed"})

    def _sleep(self, call: Call) -> Reply:
        level = call.first("level", "1")
        if level not in ("0", "1", "2"):
            raise bad("level is 0, 1 or 2", "level")
        self._stop_generation(call.first("mode", "abort"))
        if self._setting.sleep_mode:  # without it the answer is the same and nothing is freed
            self._sleeping = True
            if level == "2":
                self._engine.between(self._discard)
        return Reply.json({"status": "sleeping", "level": int(level)})

    def _discard(self) -> None:
        with torch.no_grad():
            for tensor in self._engine.model.state().values():
                tensor.zero_()
        self._engine.model.weights_changed()
        self._engine.flush()
        self._discarded = True

    def _wake_up(self, call: Call) -> Reply:
        tags = call.query.get("tags")
        awake = tags is None or "kv_cache" in tags
        if awake:
            self._sleeping = self._refusing = False
            self._engine.thaw()
        return Reply.json({"status": "awake" if awake else "sleeping", "tags": tags})

    def _collective_rpc(self, call: Call) -> Reply:
        body = _object(call)
        method, kwargs = body.get("method"), body.get("kwargs") or {}
        if method is None:
            raise Refused(400, {"error": {"message": "Missing 'method' in request body", "type": "Bad Request", "code": 400}})
        if method != "reload_weights" or not isinstance(kwargs, dict):
            raise _server_error()
        folder = kwargs.get("weights_path") or str(self._setting.engine.folder)

        def action() -> None:
            update_with(self._engine, folder, call.fault)
            if call.fault is not None and call.fault.kind == "label_only":
                self._engine.relabel(Path(folder).name)

        try:
            self._engine.between(action)
        except CheckpointError as error:
            print(f"reload_weights: {error}", flush=True)
            raise _server_error() from error
        if call.fault is not None and call.fault.kind == "update_then_error":
            raise _server_error()
        self._discarded = False
        return Reply.json({"results": [None]})

    def _flush(self, call: Call) -> Reply:
        kind = call.fault.kind if call.fault is not None else None
        if kind == "flush_ignored":
            return Reply.json({"success": True})
        return Reply.json({"success": kind != "flush_refused" and self._engine.flush()})

    def _abort(self, call: Call) -> Reply:
        names = _object(call).get("request_ids")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise Refused(500, {"error": "Failed to abort requests: request_ids"})
        # A completion's rows are named after the request.
        chosen = tuple(names or ())
        known = {f"cmpl-{name}-{i}" for name in chosen for i in range(1024)} | {f"generate-tokens-{name}" for name in chosen}
        count = self._engine.abort(lambda row: not chosen or row.name in known)
        return Reply.json({"status": "aborted", "aborted": len(chosen) if chosen else count})

    def _relabel(self, call: Call) -> Reply:
        label = _object(call).get("new_version")
        if not isinstance(label, str):
            raise bad("new_version: Input should be a valid string", "new_version")
        if call.fault is not None:
            raise _server_error()
        self._engine.relabel(label)
        return Reply.json({"success": True, "new_version": label})

    def _checker(self, call: Call) -> Reply:
        if _object(call).get("action") != "checksum":
            raise bad("the double knows the action checksum alone", "action")
        return Reply.json({"checksums": {"model": self._engine.between(lambda: digest_of(self._engine.model))}})

    # What it says of itself.

    def _health(self, call: Call) -> Reply:
        return Reply(503 if self._never_healthy else 200)

    def _models(self, call: Call) -> Reply:
        card = {"id": self._setting.name, "object": "model", "owned_by": "vllm", "root": str(self._setting.engine.folder)}
        return Reply.json({"object": "list", "data": [{**card, "max_model_len": self._engine.context}]})

    def _server(self, call: Call) -> Reply:
        flags = {name: value for name, value in self._setting.flags.items() if "key" not in name}
        value: Any = flags if call.first("config_format", "text") == "json" else str(flags)
        return Reply.json({"vllm_config": value, "vllm_env": {}, "system_env": {}})


def _object(call: Call) -> dict[str, Any]:
    try:
        value = call.value()
    except ValueError as error:
        raise bad(f"JSON decode error: {error}", None) from error
    if not isinstance(value, dict):
        raise bad("Input should be a valid dictionary", None)
    return value


def _server_error() -> Refused:
    message = "The server had an error while processing your request."
    return Refused(500, {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}})


def _spans(told: Told) -> list[dict[str, Any]]:
    return [{"version": span.version, "start": span.start, "end": span.end} for span in told.spans]


def _stop_reason(told: Told, row: Request) -> int | None:
    return told.matched if told.finish == "stop" else None


def _contents(told: Told) -> dict[str, Any]:
    pairs = zip(told.tokens, told.logprobs, strict=True)
    return {"content": [{"token_id": token, "logprob": chance, "rank": None, "top_logprobs": []} for token, chance in pairs]}
