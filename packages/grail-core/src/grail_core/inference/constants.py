"""The constants of inference on request, version 1, and the gas that work costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

DELIVERY_OVERHEAD: Final = 64  # gas of any answer
PROMPT_GAS: Final = 1  # of a prompt token
COMPLETION_GAS: Final = 8  # of a completion token
MAX_REDUNDANCY: Final = 16
MAX_CHOICES: Final = 16  # PROOF_BATCH_SIZE: the choices of an answer are proved in one pass
MAX_ANSWER_SECONDS: Final = 3_600
MAX_AMOUNT: Final = 2**53 - 1  # of money, and of sums of money
PERPETUAL: Final = 2**256 - 1  # the frequency of an order without end; null in JSON

MAX_FEATURES_BYTES: Final = 64 << 10
MAX_MESSAGES: Final = 1_024  # of one conversation
MAX_USER_CHARACTERS: Final = 256
MAX_STOPS: Final = 4  # texts that end a completion
MAX_STOP_CHARACTERS: Final = 64  # of each
MAX_RECEIPT_BYTES: Final = 8 << 20
MAX_RECEIPT_TOKENS: Final = 4_096  # texts, brackets and commas of a receipt; one of 16 choices has 350

RECEIPT_POSITIONS: Final = 256  # of a choice whose draws are looked at
PROMPT_POSITIONS: Final = 32  # of a prompt whose states are sketched: an answer of one token too shows its model

LIVE_BORDER_BLOCKS: Final = 2  # of a window, in which the checkpoint before may still answer a live order

MIN_TEMPERATURE: Final = 0.001  # at 1e-46 a margin would be no number
MAX_TEMPERATURE: Final = 10.0
MIN_TOP_P: Final = 0.001
MIN_PENALTY: Final = 0.1
MAX_PENALTY: Final = 10.0


def gas_of(prompt: int, completions: Sequence[int]) -> int:
    """Gas of one answer, from the tokens of its prompt and of each completion."""
    return DELIVERY_OVERHEAD + PROMPT_GAS * prompt + COMPLETION_GAS * sum(completions)


def tokens_for_gas(limit: int, prompt: int, choices: int) -> int:
    """The most tokens that each of so many completions may have for a limit of gas; below 1 there is none."""
    return (limit - DELIVERY_OVERHEAD - PROMPT_GAS * prompt) // (COMPLETION_GAS * choices)
