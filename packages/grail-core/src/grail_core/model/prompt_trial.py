"""Prompts tried out before anybody relies on them: the largest conversations, in a child with limits.

A template and a tokenizer's regular expressions are a stranger's programs: they can loop, build gigabytes, or work for no
conversation at all. So each is run once on the largest conversations and on texts that are hard for regular expressions, by a
child that may use so much processor time and memory and no more. The child runs the very code that prompts are made with.
What remains: a folder that behaves on these and not on others. Its author is the trainer, who signs it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from grail_core.errors import CheckpointError, ProtocolViolationError
from grail_core.model.chat_template import MAX_TEMPLATE_BYTES, compile_template

MAX_PROCESSOR_SECONDS = 2
MAX_ADDRESS_SPACE = 512 << 20
MAX_TOKENIZER_SECONDS = 20
"""Of processor time, to load a tokenizer and encode: one of 256,000 tokens takes three (570 MiB)."""
MAX_TOKENIZER_SPACE = 4 << 30
MAX_RENDERED_CHARACTERS = 4 << 20
PROBE_CHARACTERS = 1 << 18
"""Of one conversation: sixteen characters a token, for four times the longest prompt."""
_PROSE = "word \n<b> "
_HARD_CHARACTERS = 1 << 14
_TAIL = "\u00e9 1b!"  # what a repetition is followed by makes a regular expression go back
_HARD_TEXTS = ("a", " ", "\n", "1", "a ", "aA1!", "\u0301", "<")
_WALL_SECONDS = 60
_MAX_REASON = 500
_ANEW = "save the tokenizer anew with `save_pretrained`, and try a conversation with `apply_chat_template`"
_PLAIN = "the template must render a user's message, and nothing but text that follows from messages and folder"
_DECODED_TOGETHER = 1 << 13  # as many as the longest completion has

_PROBES = (("user",), ("system", "user"), ("user", "assistant") * 16 + ("user",))
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,}>")
_BOOT = "import sys; sys.path += sys.argv[2:]; from grail_core.model import prompt_trial as p; getattr(p, sys.argv[1])()"


def check_template(template: str, *, where: str, used: bool = True) -> None:
    """Refuse a chat template that prompts cannot be rendered with.

    Args:
        used: whether prompts are rendered with it; one that stands beside the default is compiled and not tried out.

    Raises:
        CheckpointError: it does not compile, is not a function of its arguments, renders no conversation, takes more than the
            limits, or gives more text than any prompt has.
    """
    if len(template.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        raise CheckpointError(f"the chat template has more than {MAX_TEMPLATE_BYTES} bytes", where=where)
    refused = _tried_template(template, used)
    if refused is not None:
        raise CheckpointError(
            f"the chat template cannot be relied on: {refused.why}",
            where=where,
            hint=refused.hint
            or f"a conversation must render within {MAX_PROCESSOR_SECONDS} s and {MAX_ADDRESS_SPACE >> 20} MiB, the same "
            "for everybody and on every day",
        )


def check_prompts(files: Mapping[str, bytes], *, vocabulary: int | None, where: str) -> None:
    """Refuse tokenizer files that `PromptRenderer` makes no prompts of.

    Args:
        files: those of `tokenizer_files.PROMPT_FILES` that the folder has.
        vocabulary: the model's embedding rows, None if unknown.

    Raises:
        CheckpointError: they cannot be read as Transformers reads them, a token is none of the model's, no conversation
            gives a prompt, or it takes more than the limits.
    """
    refused = _tried_files(tuple(sorted(files.items())), vocabulary, PROBE_CHARACTERS)
    if refused is not None:
        raise CheckpointError(
            f"prompts cannot be made with this tokenizer: {refused.why}",
            where=where,
            hint=refused.hint
            or "a prompt must be what Transformers makes of the folder, within "
            f"{MAX_TOKENIZER_SECONDS} s and {MAX_TOKENIZER_SPACE >> 30} GiB",
        )


@dataclass(frozen=True)
class _Refusal:
    why: str
    hint: str = ""  # none: the limits are the hint


@lru_cache(maxsize=64)
def _tried_template(template: str, used: bool) -> _Refusal | None:
    return _child("template_main", {"template": template, "used": used})


@lru_cache(maxsize=16)
def _tried_files(files: tuple[tuple[str, bytes], ...], vocabulary: int | None, characters: int) -> _Refusal | None:
    coded = {name: base64.b64encode(data).decode() for name, data in files}
    return _child("files_main", {"files": coded, "vocabulary": vocabulary, "characters": characters})


def _child(entry: str, value: Any) -> _Refusal | None:
    """None if it is not refused. Raises CheckpointError where the child could not be run."""
    try:
        ended = _run(entry, value)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(
            f"prompts could not be tried out: {error}", where=entry, hint="free memory or processor time; try again"
        ) from error
    if ended.returncode == 0:
        return None
    try:
        said = json.loads(ended.stdout)
        return _Refusal(str(said["why"])[:_MAX_REASON], str(said["hint"])[:_MAX_REASON])
    except (ValueError, KeyError, TypeError, RecursionError):  # a limit ended it
        return _Refusal(f"rendering it ended with code {ended.returncode}")


def _run(entry: str, value: Any) -> subprocess.CompletedProcess[bytes]:
    """`entry` in a process of its own, which knows nothing of this one."""
    folders = [str(Path(folder).resolve()) for folder in sys.path if folder]
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT, entry, *dict.fromkeys(folders)],
        input=json.dumps(value).encode(),
        capture_output=True,
        env={"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
        cwd="/",
        timeout=_WALL_SECONDS + (MAX_TOKENIZER_SECONDS if entry == "files_main" else 0),
    )


def template_main() -> None:
    """In the child: the template on standard input; exit code 0, or why not on standard output."""
    value = json.loads(sys.stdin.buffer.read())
    _confine(MAX_PROCESSOR_SECONDS, MAX_ADDRESS_SPACE)
    try:
        compiled = compile_template(value["template"], where="")
    except MemoryError:
        _leave(1, f"it needs more than {MAX_ADDRESS_SPACE >> 20} MiB")
    except CheckpointError as error:
        _leave(1, _first_line(error), error.hint or _PLAIN)
    except (RecursionError, ValueError) as error:
        _leave(1, _first_line(error), _PLAIN)
    if not value["used"]:
        _leave(0, "")
    reasons: list[str] = []
    for roles in _PROBES:
        size = PROBE_CHARACTERS // len(roles)
        messages = [{"role": role, "content": (_PROSE * size)[:size]} for role in roles]
        for thinking in (False, True):
            text = _rendered(compiled, messages, thinking, reasons)
            if len(text) > MAX_RENDERED_CHARACTERS:
                _leave(1, f"{len(text)} characters for a conversation of {PROBE_CHARACTERS}")
            if _ADDRESS.search(text):
                _leave(1, "it writes where something lies in memory, which differs from process to process", _PLAIN)
    if len(reasons) == 2 * len(_PROBES):
        _leave(1, f"it renders no conversation: {reasons[0]}", _PLAIN)
    _leave(0, "")


def files_main() -> None:
    """In the child: tokenizer files on standard input; exit code 0, or why not on standard output."""
    from grail_core.environment import Message
    from grail_core.model.prompts import PromptRenderer

    value = json.loads(sys.stdin.buffer.read())
    files = {name: base64.b64decode(data) for name, data in value["files"].items()}
    _confine(MAX_TOKENIZER_SECONDS, MAX_TOKENIZER_SPACE)
    try:
        renderer = PromptRenderer.of(files, where="")
    except CheckpointError as error:
        _leave(1, _first_line(error), error.hint or _ANEW)
    except (MemoryError, RecursionError) as error:
        _leave(1, _first_line(error))
    beyond = renderer.added_beyond(value["vocabulary"]) if value["vocabulary"] is not None else []
    if beyond:
        _leave(
            1,
            f"the token {beyond[0]!r} is added to tokenizer.json, and the model has only {value['vocabulary']} tokens",
            "leave the token out, or give the model an embedding for it (`resize_token_embeddings`)",
        )
    made, reasons = 0, []
    for roles, text, length in _trials(value["characters"]):
        content = (text * length)[: length // len(roles)] + _TAIL
        try:
            tokens = renderer.render([Message(role, content) for role in roles])
            made += bool(tokens)
            _decoded(renderer, tokens)
        except (ProtocolViolationError, MemoryError) as error:
            if error.__cause__ is not None and not isinstance(error.__cause__, Exception):
                _leave(
                    1, f"the tokenizer gives up on a text: {_first_line(error.__cause__)}"
                )  # a panic: a pattern that blows up
            reasons.append(_first_line(error))
    for first in range(0, renderer.vocabulary_size, _DECODED_TOGETHER):
        _decoded(renderer, range(first, min(first + _DECODED_TOGETHER, renderer.vocabulary_size)))
    if not made:
        _leave(1, f"it gives no prompt: {reasons[0] if reasons else 'every one is empty'}", _ANEW)
    _leave(0, "")


def _decoded(renderer: Any, tokens: Sequence[int]) -> None:
    """Completions are decoded by the folder's own decoder, which can replace a letter by a gigabyte as a normalizer can."""
    try:
        text = renderer.decode_completion(tokens)
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
        _leave(1, f"the decoder gives up on its own tokens: {_first_line(error)}")
    if len(text) > MAX_RENDERED_CHARACTERS:
        _leave(1, f"the decoder makes {len(text)} characters of {len(tokens)} tokens")


def _trials(characters: int) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """Roles of a conversation, what its contents repeat, and characters in all."""
    yield from ((roles, _PROSE, characters) for roles in _PROBES)
    yield from ((roles, text, _HARD_CHARACTERS) for text in _HARD_TEXTS for roles in _PROBES[:2])


def _confine(seconds: int, space: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    if sys.platform == "linux":  # macOS does not enforce it
        resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _rendered(compiled: Any, messages: list[dict[str, str]], thinking: bool, reasons: list[str]) -> str:
    """The text; empty where the template refuses the conversation, which it may, and why is added to `reasons`."""
    specials = {f"{name}_token": f"<|{name}|>" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")}
    try:
        return str(
            compiled.render(
                messages=messages, add_generation_prompt=True, enable_thinking=thinking, tools=None, documents=None, **specials
            )
        )
    except MemoryError:
        _leave(1, f"it needs more than {MAX_ADDRESS_SPACE >> 20} MiB")
    except Exception as error:  # noqa: BLE001 - a template can fail in any way Python can, and may
        reasons.append(_first_line(error))
        return ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _leave(code: int, why: str, hint: str = "") -> NoReturn:
    sys.stdout.write(json.dumps({"why": why[:_MAX_REASON], "hint": hint[:_MAX_REASON]}))
    sys.stdout.flush()
    os._exit(code)
