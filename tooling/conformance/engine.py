"""A real engine over HTTP as a miner runs it: our command line, plug-in and client; and what no client of ours needs to ask.

Weights that were rolled are timed by the generator's own requests: the pause is from the one that stops new work to the answer
of the one that allows it again.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grail_core.generation.base import ServedWeights
from grail_core.generation.launch import Launch, launch
from grail_core.generation.options import EngineOptions
from grail_core.generation.remote import RemoteGenerator
from grail_core.generation.server import EngineServer
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.protocol.reading import Node

Engine = Literal["sglang", "vllm"]
Dtype = Literal["bfloat16", "float32"]
_PAUSES = ("/pause_generation", "/pause?mode=abort")
_COUNTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_RESUMES = ("/continue_generation", "/resume")


@dataclass(frozen=True)
class Spoken:
    """A control request that was answered: which, and from when to when, in seconds of a monotonic clock."""

    path: str
    began: float
    ended: float


class _Timed(RemoteGenerator):
    """Notes its control requests."""

    spoken: list[Spoken]

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **more: Any) -> Node:
        began = time.monotonic()
        answer = super()._call(method, path, body, **more)
        self.spoken.append(Spoken(path, began, time.monotonic()))
        return answer

    def _send(self, path: str, body: Mapping[str, Any] | None = None, **more: Any) -> None:
        began = time.monotonic()
        super()._send(path, body, **more)
        self.spoken.append(Spoken(path, began, time.monotonic()))


class TimedSglang(SglangGenerator, _Timed):
    pass


class TimedVllm(VllmGenerator, _Timed):
    pass


@dataclass(frozen=True)
class Running:
    """A server and its client. `start_s`: from nothing to the first answer."""

    engine: Engine
    server: EngineServer
    generator: TimedSglang | TimedVllm
    start_s: float

    def roll(self, weights: ServedWeights) -> tuple[float, float]:
        """Serve these weights. Returns seconds of all of it, and milliseconds in which nothing could be drawn."""
        self.generator.spoken.clear()
        began = time.monotonic()
        self.generator.serve(weights)
        seconds = time.monotonic() - began
        paused = next(one.began for one in self.generator.spoken if one.path in _PAUSES)
        resumed = next(one.ended for one in reversed(self.generator.spoken) if one.path in _RESUMES)
        return seconds, 1_000 * (resumed - paused)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
        """Any request: status and body."""
        request = urllib.request.Request(
            self.server.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.server.api_key}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def in_flight(self) -> int:
        """Requests that the engine itself says it has."""
        if self.engine == "sglang":  # flushing is refused while there are any
            return int(self.ask("POST", "/flush_cache")[0] != 200)
        status, text = self.ask("GET", "/metrics")
        counts = [
            line for line in text.splitlines() if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting"))
        ]
        if status != 200 or not counts:
            raise RuntimeError(f"vLLM's /metrics says no counts of requests (status {status})")
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in counts)

    def logprobs(self, weights: ServedWeights, row: Sequence[int], prompt_length: int) -> list[float]:
        """The engine's own log-probabilities of a row's completion tokens, given the tokens before each."""
        if self.engine == "sglang":
            assert isinstance(self.generator, TimedSglang)
            body = self.generator.request_body(weights, row, 1, 1, "logprobs")
            body |= {"return_logprob": True, "logprob_start_len": 0}
            status, text = self.ask("POST", "/generate", body)
            if status != 200:
                raise RuntimeError(f"SGLang gives no log-probabilities: {status} {text[:300]}")
            found = [float(one[0]) for one in json.loads(text)["meta_info"]["input_token_logprobs"][prompt_length:]]
        else:
            assert isinstance(self.generator, TimedVllm)
            body = self.generator.request_body(weights, row, 1, 1, "logprobs")
            body["sampling_params"]["prompt_logprobs"] = 0
            status, text = self.ask("POST", "/inference/v1/generate", body)
            if status != 200:
                raise RuntimeError(f"vLLM gives no log-probabilities: {status} {text[:300]}")
            listed = json.loads(text)["prompt_logprobs"]
            found = [float(listed[at][str(row[at])]["logprob"]) for at in range(prompt_length, len(row))]
        if len(found) != len(row) - prompt_length:
            raise RuntimeError(f"{len(found)} log-probabilities for {len(row) - prompt_length} tokens")
        return found


def without_plugin(
    options: EngineOptions,
    weights: ServedWeights,
    port: int,
    *,
    api_key: str,
    scratch: Path,
    own: Mapping[str, str],
    numerics_class: str | None,
) -> Launch:
    """The same server without our processor: to see what it costs."""
    made = launch(options, weights, port, api_key=api_key, scratch=scratch, own=own, numerics_class=numerics_class)
    command = list(made.command)
    if "--logits-processors" in command:
        at = command.index("--logits-processors")
        del command[at : at + 2]
    return Launch(tuple(command), made.environment, made.files)


@contextmanager
def running(
    engine: Engine,
    dtype: Dtype,
    python: Path,
    weights: ServedWeights,
    state: Path,
    *,
    plugin: bool = True,
    concurrent: int = 48,
) -> Iterator[Running]:
    """An engine that was started with `weights` and has confirmed them. Nothing of it is left afterwards."""
    options = EngineOptions(engine, python=python, dtype=dtype, max_model_len=weights.context_length, state_dir=state)
    server = EngineServer(options) if plugin else EngineServer(options, launcher=without_plugin)
    try:
        began = time.monotonic()
        server.start(weights)
        start_s = time.monotonic() - began
        kind = TimedSglang if engine == "sglang" else TimedVllm
        generator = kind(server.url, options, numerics_class=f"{dtype} on the CPU, {engine}", api_key=server.api_key)
        generator.spoken = []
        try:
            generator.adopt(weights)
            yield Running(engine, server, generator, start_s)
        finally:
            generator.close()
    finally:
        server.close()
