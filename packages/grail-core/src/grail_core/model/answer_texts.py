"""The text of a completion as a client gets it: one function, for the node that sends it and for whoever checks it.

The token that ends it is no text, and neither is a stop text or what stands behind one. Tokenizers are not imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grail_core.inference.answers import ServedModel
from grail_core.inference.features import Features
from grail_core.inference.stops import before_stop, contains_stop

if TYPE_CHECKING:
    from grail_core.model.prompts import PromptRenderer


def answer_text(renderer: PromptRenderer, model: ServedModel, asked: Features, completion: tuple[int, ...]) -> str:
    """The completion's text, as the model's tokenizer decodes it, up to the earliest of the stop texts that were asked for."""
    text = before_stop(renderer.decode(model.spoken(completion)), asked.stop)
    return text if asked.messages is None else renderer.thinking_opened(asked.messages) + text


def ended_by(renderer: PromptRenderer, model: ServedModel, asked: Features, completion: tuple[int, ...]) -> str:
    """`end token`, `stop text` or `limit`. A stop text counts where it is in the text, whatever else ends it there."""
    spoken = model.spoken(completion)
    if asked.stop and contains_stop(renderer.decode(spoken), asked.stop):
        return "stop text"
    return "end token" if len(spoken) < len(completion) else "limit"
