"""A folder's prompts beside those of the Transformers that is installed here, before the folder is taken into a network.

Prompts are made by `PromptRenderer`, which reads tokenizer.json as `PreTrainedTokenizerFast` of Transformers 5.23 does,
whatever is installed. Should the version here read a folder otherwise, the folder is refused while somebody can still mend
it. `AutoTokenizer` is another matter: for some architectures (Qwen2 is one) it takes a class that builds the pipeline anew
from the vocabulary. Who makes prompts with it would be rejected, so that is said; a network's prompts are tokenizer.json's.
Nothing is fetched and no code of the folder is run.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from grail_core.environment import Message
from grail_core.errors import CheckpointError, ProtocolViolationError
from grail_core.model.prompts import PromptRenderer
from grail_core.model.tokenizer_files import has_template

_TEXTS = (
    "Hello, what is 12 + 345?  Don't guess\u2026\n\n\tdef f(x):\n        return x**2 # \u00e9t, \u4f60\u597d, \U0001f600\n",
    " leading and trailing blanks  ",
    "\n1\n\n2024-07-26 <b>3.14</b> [x] {y} it's THE END",
)
_CONVERSATIONS = (("user",), ("system", "user"), ("user", "assistant", "user"))


def require_transformers_agrees(folder: Path) -> None:
    """Compare prompts of a few conversations; a folder without a tokenizer or a chat template is passed over.

    Raises:
        CheckpointError: Transformers does not load the tokenizer, or makes other tokens of a conversation.
    """
    if not has_template(folder):
        return
    hint = "save the tokenizer anew with `save_pretrained`, or report the folder: this Transformers reads it in another way"
    try:
        tokenizer = _load("PreTrainedTokenizerFast", folder)
    except _NotLoadedError as error:
        raise CheckpointError(f"Transformers does not load this tokenizer: {error}", where=str(folder), hint=hint) from error
    if not _agree(tokenizer, PromptRenderer(folder)):
        raise CheckpointError("Transformers makes other tokens of a prompt", where=str(folder), hint=hint)


def other_tokenizer_notes(folder: Path) -> tuple[str, ...]:
    """One sentence where `AutoTokenizer` makes other prompts of the folder than the network will have; else nothing.

    Raises:
        CheckpointError: see `PromptRenderer`.
    """
    if not has_template(folder):
        return ()
    try:
        tokenizer = _load("AutoTokenizer", folder)
    except _NotLoadedError as error:
        return (f"AutoTokenizer does not load this tokenizer ({error}); a network's prompts are tokenizer.json's",)
    if _agree(tokenizer, PromptRenderer(folder)):
        return ()
    name = type(tokenizer).__name__
    return (f"AutoTokenizer takes {name}, which makes other tokens of a prompt; a network's prompts are tokenizer.json's",)


class _NotLoadedError(Exception):
    """Says why in one line."""


def _agree(tokenizer: Any, renderer: PromptRenderer) -> bool:
    for roles in _CONVERSATIONS:
        turns = [{"role": role, "content": text} for role, text in zip(roles, _TEXTS, strict=False)]
        wanted = _transformers(tokenizer, turns)
        if wanted is not None and wanted != _ours(renderer, turns):
            return False
    return True


def _load(name: str, folder: Path) -> Any:
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"trust_remote_code": False} if name == "AutoTokenizer" else {}
            return getattr(transformers, name).from_pretrained(str(folder), local_files_only=True, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # it raises whatever it meets; a panic in Rust is no Exception
        raise _NotLoadedError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    finally:
        transformers.logging.set_verbosity(before)


def _transformers(tokenizer: Any, turns: list[dict[str, str]]) -> tuple[int, ...] | None:
    """None where the template refuses the conversation."""
    try:
        made = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False
        )
    except Exception:  # noqa: BLE001 - a template can fail in any way Python can
        return None
    return tuple(int(token) for token in made)


def _ours(renderer: PromptRenderer, turns: list[dict[str, str]]) -> tuple[int, ...] | None:
    try:
        return renderer.render([Message(**turn) for turn in turns])
    except ProtocolViolationError:
        return None
