"""What the checks of one file are run against: values, no chain, no store; of a clock only what it leaves this file."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from grail_core.environment import Environment, Message
from grail_core.errors import OutOfTimeError
from grail_core.proof.calibration import CalibrationTable
from grail_core.protocol import WindowHeader
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.context import WindowContext
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.window_file import OpenFile, in_this_process


class Renderer(Protocol):
    """The part of `grail_core.model.prompts.PromptRenderer` that checks need."""

    def render(self, messages: list[Message]) -> tuple[int, ...]: ...

    def decode_completion(self, tokens: list[int], asked: list[Message] = ...) -> str: ...


@dataclass(frozen=True)
class CheckContext:
    """One miner's file of one window.

    `vocabulary_size` and `context_length` are the checkpoint model's, `table` is the calibration that it pins; `history` holds
    the rollout identities (`uniqueness.rollout_identity`) this hotkey already had counted in the last 12 windows; `sealed` is
    the header of its seal, None for who knows only the file's digest; `open_file` opens a stranger's bytes; `seconds_left` says
    how long this file's checks may still take.
    """

    window: WindowContext
    hotkey: Hotkey
    environment: Environment
    renderer: Renderer
    vocabulary_size: int
    context_length: int
    table: CalibrationTable
    sealed: WindowHeader | None = None
    open_file: OpenFile = in_this_process
    history: Collection[Digest] = field(default_factory=frozenset)
    seconds_left: Callable[[], float] = lambda: math.inf

    def require_time(self, work: str) -> None:
        """Asked before each piece of work that takes long: a rollout's grade, a forward pass.

        Raises:
            OutOfTimeError: this file's time is over, whoever made it slow.
        """
        over_s = -self.seconds_left()
        if over_s >= 0:
            raise OutOfTimeError(
                f"the time for one file's checks was over before {work}",
                hint="a single file may be made to be slow; if many end so, this machine is too slow for the network",
            )

    @property
    def policy(self) -> GenerationPolicy:
        return self.window.manifest.policy

    @property
    def end_tokens(self) -> frozenset[int]:
        return frozenset(self.window.manifest.end_token_ids)

    def length_limit(self, prompt_length: int) -> int:
        """L of section 4: the most completion tokens a row with this prompt may have."""
        return min(self.policy.max_tokens, MAX_NEW_TOKENS_PROTOCOL_CAP, self.context_length - prompt_length)
