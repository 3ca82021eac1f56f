"""The chat template as a program: compiled in Jinja's sandbox, and tried out in a process with limits before it is relied on.

A sandbox keeps a template from files and from Python; it does not keep it from looping or from building gigabytes. So each
template is rendered once on the largest conversations, by a child that may use so much processor time and memory and no more.
What remains: a template that behaves on these and not on others. Its author is the trainer, who signs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from grail_core.errors import CheckpointError

MAX_TEMPLATE_BYTES = 1 << 20
MAX_PROCESSOR_SECONDS = 2
MAX_ADDRESS_SPACE = 512 << 20
MAX_RENDERED_CHARACTERS = 4 << 20
PROBE_CHARACTERS = 1 << 18
"""Of one message: sixteen characters a token, for four times the longest prompt."""
_WALL_SECONDS = 60

# Names by which published templates ask for the time.
_CLOCKS = frozenset({"strftime_now", "date_string", "now", "today", "current_date", "datetime", "date"})
_IMPURE_FILTERS = ("random",)
_IMPURE_GLOBALS = ("lipsum",)
_BOOT = "import sys; sys.path += sys.argv[1:]; from grail_core.model.chat_template import probe_main; probe_main()"


def compile_template(template: str, *, where: str) -> Any:
    """A Jinja template in a sandbox, without clocks and random sources.

    Raises:
        CheckpointError: it does not compile, or reads a clock.
    """
    from jinja2 import TemplateError, meta
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    for name in _IMPURE_FILTERS:
        environment.filters.pop(name, None)
    for name in _IMPURE_GLOBALS:
        environment.globals.pop(name, None)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    try:
        asked = meta.find_undeclared_variables(environment.parse(template))
        clocks = sorted(asked & _CLOCKS)
        if clocks:
            raise CheckpointError(
                f"the chat template reads a clock ({', '.join(clocks)}), so prompts would differ from day to day",
                where=where,
                hint="write a fixed date into the template",
            )
        return environment.from_string(template)
    except TemplateError as error:
        raise CheckpointError(f"the chat template does not compile: {error}", where=where) from error


def _raise_exception(message: str) -> None:
    raise ValueError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


@lru_cache(maxsize=64)
def probe_template(template: str, *, where: str) -> None:
    """Render it on the largest conversations in a child with limits.

    Raises:
        CheckpointError: it does not compile, takes more than the limits, or gives more text than any prompt has.
    """
    import jinja2
    import markupsafe

    import grail_core

    if len(template.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        raise CheckpointError(f"the chat template has more than {MAX_TEMPLATE_BYTES} bytes", where=where)
    modules = (grail_core, jinja2, markupsafe)
    folders = [str(Path(str(module.__file__)).resolve().parent.parent) for module in modules]
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT, *dict.fromkeys(folders)]
    try:
        ended = subprocess.run(
            command, input=json.dumps(template).encode(), capture_output=True, env={}, cwd="/", timeout=_WALL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(
            f"the chat template could not be tried out: {error}", where=where, hint="free memory or processor time; try again"
        ) from error
    if ended.returncode == 0:
        return
    said = ended.stdout.decode("utf-8", "replace")[:500]
    raise CheckpointError(
        f"the chat template cannot be relied on: {said or f'rendering it ended with code {ended.returncode}'}",
        where=where,
        hint=f"a conversation must render within {MAX_PROCESSOR_SECONDS} s and {MAX_ADDRESS_SPACE >> 20} MiB",
    )


def probe_main() -> None:
    """In the child: the template as JSON text on standard input; exit code 0, or why not on standard output."""
    import resource

    template = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_PROCESSOR_SECONDS, MAX_PROCESSOR_SECONDS + 1))
    if sys.platform == "linux":  # macOS does not enforce it
        resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    try:
        compiled = compile_template(template, where="")
    except (CheckpointError, RecursionError, MemoryError, ValueError) as error:
        _leave(1, str(error).splitlines()[0] if str(error) else type(error).__name__)
    for roles in (("user",), ("system", "user"), ("user", "assistant") * 16 + ("user",)):
        size = PROBE_CHARACTERS // len(roles)
        messages = [{"role": role, "content": ("word \n<b> " * size)[:size]} for role in roles]
        for thinking in (False, True):
            length = _rendered(compiled, messages, thinking)
            if length > MAX_RENDERED_CHARACTERS:
                _leave(1, f"{length} characters for a conversation of {PROBE_CHARACTERS}")
    _leave(0, "")


def _rendered(compiled: Any, messages: list[dict[str, str]], thinking: bool) -> int:
    """Characters that come out; 0 where the template refuses the conversation, which it may."""
    specials = {name: f"<|{name}|>" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    try:
        return len(
            compiled.render(
                messages=messages, add_generation_prompt=True, enable_thinking=thinking, tools=None, documents=None, **specials
            )
        )
    except MemoryError:
        _leave(1, f"it needs more than {MAX_ADDRESS_SPACE >> 20} MiB")
    except Exception:  # noqa: BLE001 - a template can fail in any way Python can, and may
        return 0
    return 0


def _leave(code: int, why: str) -> None:
    sys.stdout.write(why)
    sys.stdout.flush()
    os._exit(code)
