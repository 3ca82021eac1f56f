"""Check `termination` of a receipt: a completion ends at an end token, at a stop text or at the limit, and nowhere before.

Which texts end it the order says, what its tokens say the model's tokenizer: with stop texts and without the folder, what only
the text could show is inconclusive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from grail_core.inference.features import Features
from grail_core.inference.orders import length_limit
from grail_core.inference.receipts import Receipt
from grail_core.inference.stops import contains_stop
from grail_core.protocol.findings import Finding, Outcome
from grail_core.verification.wording import accept, reject, say

if TYPE_CHECKING:
    from grail_core.model.prompts import PromptRenderer

CHECK = "termination"
_PLACES = "at an end token or at the limit"


def check_termination(receipt: Receipt, asked: Features, renderer: PromptRenderer | None) -> Finding:
    """Of every choice; the first that is wrong is named.

    Args:
        asked: what the order asks. renderer: of the receipt's model; None: not known here.
    """
    limit = length_limit(receipt.order, receipt.policy, receipt.model.context_length, len(receipt.answer.prompt))
    stopped = 0
    for index, choice in enumerate(receipt.answer.choices):
        tokens, ends = choice.completion, receipt.model.end_token_ids
        wrong = _wrong_tokens(tokens, ends, limit)
        if wrong is None and asked.stop and renderer is not None:
            before, whole = (contains_stop(renderer.decode(part), asked.stop) for part in (tokens[:-1], tokens))
            whole = whole and tokens[-1] not in ends  # which add no text, whatever the tokenizer has for them
            wrong = "it goes on after a stop text" if before else _unended(tokens, ends, limit, whole)
            stopped += whole
        elif wrong is None and not asked.stop:
            wrong = _unended(tokens, ends, limit, None)
        if wrong is not None:
            return reject(CHECK, value=len(tokens), threshold=limit, detail=f"choice {index}: {wrong}")
    if asked.stop and renderer is None:
        detail = "stop texts were ordered: where they end a completion, only the model's tokenizer shows"
        return say(Outcome.INCONCLUSIVE, CHECK, detail=detail)
    places = f"at an end token, at the limit, or ({stopped} of them) at a stop text" if asked.stop else _PLACES
    return accept(CHECK, threshold=limit, detail=f"every completion ends {places}")


def _wrong_tokens(tokens: tuple[int, ...], ends: tuple[int, ...], limit: int) -> str | None:
    """What no tokenizer is needed to see."""
    if len(tokens) > limit:
        return f"{len(tokens)} tokens, the limit is {limit}"
    places = np.flatnonzero(np.isin(tokens[:-1], ends))
    return f"an end token stands at {places[0]}, before the last" if places.size else None


def _unended(tokens: tuple[int, ...], ends: tuple[int, ...], limit: int, stopped: bool | None) -> str | None:
    """`stopped`: whether its text contains a stop text; None: none was ordered."""
    if stopped or tokens[-1] in ends or len(tokens) == limit:
        return None
    at = "at an end token" if stopped is None else "at an end token or a stop text"
    return f"it stops after {len(tokens)} tokens, neither {at} nor at the limit {limit}"
