"""A node over HTTP beside the bare generator: what a server costs its tokens, with proofs and without, and the first of them.

Everything is real: a node at a socket, its model in the child process that `grail-miner serve` has, clients in a process of
their own. The bare generator draws the very same requests (same seeds, same tokens) in this process, in one closed batch. One
thread computes in each; server and clients have the machine's other core, if it has one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from grail_core.generation.hf import HfGenerator
from grail_core.generation.hf_streaming import HfStreaming
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.serving.answering import AdmittedOrder
from grail_miner.serving.model_frames import proved_bytes
from grail_miner.serving.model_process import ModelProcess
from grail_miner.serving.models import ToProve
from tooling.studies.benchmarks.serving_clients import Clients
from tooling.studies.receipts.node import Question, StudiedNode
from tooling.testing.serving_node import MODEL, RunningNode, running_node

REQUESTS: Final = 16
TOKENS: Final = 64
LONG_TOKENS: Final = 256
_FIRST_TOKENS: Final = 20  # requests whose first token is waited for


class _Unproved(ModelProcess):
    """A server as others are: it proves nothing."""

    def prove(self, job: ToProve) -> list[RolloutProof]:
        shares = [proved_bytes(ToProve(**{**vars(job), "completions": (one,)})) for one in job.completions]
        return [RolloutProof(bytes(size), np.empty(0, dtype=np.float32)) for size in shares]


def measure_serving(node: StudiedNode, least: Callable[..., list[float]]) -> dict[str, float]:
    """Figures of a node of this model.

    Args:
        least: the smallest wall time of each of some runs, taken in turns.
    """
    asked = [Question(f"Question {number}: what is {number} + {number}?", False, number) for number in range(REQUESTS)]
    orders = [node.order(one, GenerationPolicy(TOKENS)) for one in asked]
    long_orders = [node.order(one, GenerationPolicy(LONG_TOKENS)) for one in asked]
    bodies = [*(_body(one, TOKENS) for one in asked), *(_body(one, LONG_TOKENS) for one in asked)]
    bare = HfGenerator(node.loaded.sdpa, node.served.policy, frozenset(node.served.model.end_token_ids))
    requests, long_requests = ([r for one in some for r in node.honest.requests(one)] for some in (orders, long_orders))
    with (
        _served(node, ModelProcess(device="cpu")) as proved,
        _served(node, _Unproved(device="cpu")) as plain,
        Clients(bodies) as clients,
    ):
        drawn, without, with_proofs = least(
            lambda: bare.generate(requests),
            lambda: clients.ask_all(plain.url, 0, REQUESTS),
            lambda: clients.ask_all(proved.url, 0, REQUESTS),
        )
        long_drawn, long_proved = least(
            lambda: bare.generate(long_requests), lambda: clients.ask_all(proved.url, REQUESTS, 2 * REQUESTS)
        )
        first = float(np.median([clients.first_text(proved.url, number % REQUESTS) for number in range(_FIRST_TOKENS)]))
        alone = float(np.median([_first_token_bare(node, order) for order in [*orders, *orders][:_FIRST_TOKENS]]))
    return {
        "infer.throughput_ratio": drawn / without,
        "infer.throughput_ratio.proved": drawn / with_proofs,
        "infer.throughput_ratio.proved.long": long_drawn / long_proved,
        "infer.bare_tokens_per_s": sum(len(one.tokens) for one in bare.generate(requests)) / drawn,
        "infer.ttft_ms": 1e3 * first,
        "infer.ttft_overhead_ms": 1e3 * (first - alone),
    }


@contextmanager
def _served(node: StudiedNode, models: ModelProcess) -> Iterator[RunningNode]:
    """A node whose model process computes with one thread, as its environment says."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with (
            tempfile.TemporaryDirectory() as state,
            running_node(node.honest, Path(state), models=models) as running,
        ):
            yield running
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _body(question: Question, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": question.text}]
    return {"model": MODEL, "messages": messages, "seed": question.number, "max_tokens": tokens}


def _first_token_bare(node: StudiedNode, order: AdmittedOrder) -> float:
    generator = HfStreaming(node.loaded.sdpa, node.served.policy, frozenset())
    (request,) = node.honest.requests(order)
    begun = time.perf_counter()
    generator.add(request)
    while not generator.step():
        pass
    return time.perf_counter() - begun
