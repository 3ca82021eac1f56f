"""Generation behind one interface: prompts as token ids and one sampling seed per rollout in, token ids out.

Requests of one call may each be drawn by a policy of their own; without one they are drawn by the served weights' policy.
Back-ends must sample as section 4 of the protocol says; `hf.py` does so in process, `sglang.py` and `vllm.py` through a server
of their own. A generator draws with the weights it was told to serve and with no others. No proof, no wallet, no chain here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from grail_core.protocol.policy import GenerationPolicy

if TYPE_CHECKING:
    from grail_core.model.policy_model import PolicyModel


@dataclass(frozen=True)
class GenerationRequest:
    prompt: tuple[int, ...]
    sampling_seed: int  # 64-bit, top bit clear
    policy: GenerationPolicy | None = None  # None: that of the served weights


@dataclass(frozen=True)
class Completion:
    tokens: tuple[int, ...]  # the end token, if any, is the last


@dataclass(frozen=True)
class Drawn:
    """A request that is finished."""

    index: int  # of the request, in the sequence that was handed in
    completion: Completion


@dataclass(frozen=True)
class ServedWeights:
    """What a generator draws with: one checkpoint's weights, and what its manifest says of drawing.

    `folder` is a whole Transformers folder of exactly these weights. `model` is the same, loaded in this process, for
    generators that run here; then the folder's weights may be older.
    """

    version: str  # the manifest's digest, 64 hex digits: what an engine reports while it serves these
    folder: Path
    policy: GenerationPolicy  # of requests that bring none
    end_tokens: frozenset[int]
    vocabulary_size: int  # rows of the head
    context_length: int  # tokens
    model: PolicyModel | None = None


class Generator(Protocol):
    """Draws tokens. Calls come from one thread, but for `close`."""

    @property
    def numerics_class(self) -> str:
        """What the header calls `generation_class`."""
        ...

    @property
    def version(self) -> str | None:
        """Of the weights in use; None before the first `serve`, and after a failure until the next one."""
        ...

    def serve(self, weights: ServedWeights) -> None:
        """Draw with these from now on; returns once the engine says that it does.

        Raises:
            EngineError: it does not; `version` tells what it serves instead, and nothing is drawn with a mixture.
            ProtocolViolationError: the policy is one that this engine cannot follow.
        """
        ...

    def distrust(self) -> None:
        """What was drawn is not what the weights give, whatever it says: draw nothing until the next `serve`, which loads them
        whole, in a new process where this one is ours. `version` is None until then."""
        ...

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        """Every request at most once, as it is finished, in any order; each by its own policy, if it has one.

        All of them, but for those that are not finished when `cancelled` says true, and for single ones that an engine behind
        HTTP would not answer usably in several tries: these are left out and logged (`row_lost`), which costs their group. What
        was yielded before an error can be used; the same requests may be made again, and the same seeds give the same tokens.

        Raises:
            EngineError: the engine fails for good, or answered with other weights than `version`.
            OutOfVocabularyError, OverlongSequenceError, ProtocolViolationError: a prompt that cannot be taken, or a policy that
                is none, or that this engine cannot follow; nothing is drawn of the whole call.
        """
        ...

    def close(self) -> None:
        """Stop and free everything; may be called twice, and from another thread while `generate` runs, which then ends."""
        ...
