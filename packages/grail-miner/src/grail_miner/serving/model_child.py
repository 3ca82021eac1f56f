"""The model process of a node: it holds the models that it is told to, draws and proves with them.

Its parent is `model_process`, and nobody else starts it. It has no key, no socket to the outside and no store; what it knows of
a request are token ids and seeds. It lives as long as its parent (`grail_core.child_process.boot`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn, cast

from grail_core.child_process.boot import Answers, serve
from grail_core.child_process.frames import Payload, pack, unpack
from grail_miner.proving.frames import ERRORS
from grail_miner.serving import model_frames as frames
from grail_miner.serving.model_frames import Kind

if TYPE_CHECKING:
    from grail_core.model.policy_model import Attention
    from grail_miner.serving.models import HfModels


def main() -> NoReturn:
    """Arguments: the descriptor of the connection, device, attention."""
    serve(_prepared, kinds=Kind, ready=Kind.READY, fault=Kind.FAULT, names=ERRORS)


def _prepared() -> Answers[Kind]:
    from transformers import AutoModelForCausalLM  # noqa: F401 - takes seconds, better now than with a request

    from grail_core.model.policy_model import require_device
    from grail_miner.serving.models import HfModels

    require_device(sys.argv[2])
    return answers_of(HfModels(device=sys.argv[2], attention=cast("Attention", sys.argv[3])))


def answers_of(models: HfModels) -> Answers[Kind]:
    """What this process answers with these models."""

    def hold(payload: memoryview) -> Payload:
        return frames.pack_held(models.hold(frames.model_of(payload)))

    def release(payload: memoryview) -> Payload:
        models.release(bytes.fromhex(unpack(payload)[0]["container"]))
        return pack({})

    def advance(payload: memoryview) -> Payload:
        return frames.pack_drawn(models.advance(*frames.rows_of(payload)))

    def prove(payload: memoryview) -> Payload:
        return frames.pack_proofs(models.prove(frames.job_of(payload)))

    return {
        Kind.HOLD: (Kind.HELD, hold),
        Kind.RELEASE: (Kind.RELEASED, release),
        Kind.ADVANCE: (Kind.DRAWN, advance),
        Kind.PROVE: (Kind.PROVED, prove),
    }
