"""The process that holds somebody else's environment: it loads the package once, and its forks judge one completion each.

Runs in the zygote of a pool of kind `foreign`. Loading is the operator's own trust (he named the package) and may use the
network and the data folder; a judgement is a confined fork that has neither, starts from the state that loading left, and
takes nothing back. So no judgement knows of another, and what a completion breaks is broken for itself alone. Standard
library only; the library of the environment is imported by `verifiers_side` or `stepped_side`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from grail_envs.adapters.installed_files import NoModuleError, OwnModule, digest_of
from grail_envs.adapters.own_modules import NotOwnError, OwnModules, put_first
from grail_envs.sandbox.left_behind import has_children
from grail_envs.sandbox.steady import Steady

MAX_ROWS = 200_000
MAX_PROMPT_BYTES = 2**20
"""Of one row, all messages together."""

MAX_TOTAL_BYTES = 512 * 2**20
WORLD_S = 400 * 86400 + 7 * 3600 + 13 * 60 + 11
"""Seconds by which the clock of one world is ahead of the one before it, for `grail-envs check`."""

MOST_OF_A_NAME = 80
"""Characters of a reward function's name: rewards are told apart by their names."""

_PATIENCE = 20
_PART_BYTES = 2 * 2**20
_ROLES = ("system", "user", "assistant")


class RefusedError(Exception):
    """The package is not what can be adapted. `hint` says what would do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


class Adapted(Protocol):
    """What a form makes of a package: rows that are asked, and a judge."""

    weights: dict[str, float]
    """Of every reward function; a function of weight 0 is told and not paid."""

    def rows(self) -> Iterator[tuple[list[dict[str, str]], str]]:
        """Messages of each row, and its whole content as text (what is judged by, too)."""
        ...

    def judge(self, index: int, text: str) -> tuple[float, dict[str, float]]:
        """Total reward, and what each function gave. May raise anything."""
        ...


class Foreign:
    """A loaded environment, as the zygote holds it."""

    def __init__(self, adapted: Adapted) -> None:
        long = next((name for name in adapted.weights if len(name) > MOST_OF_A_NAME), None)
        if long is not None:
            raise RefusedError(f"the name of a reward function has {len(long)} characters", f"at most {MOST_OF_A_NAME}")
        self._adapted = adapted
        self._rows: list[str] = []
        self._contents: list[str] = []
        digest, size = hashlib.sha256(), 0
        for number, (messages, content) in enumerate(adapted.rows()):
            raw = _checked_row(number, messages)
            size += len(raw)
            if number >= MAX_ROWS or size > MAX_TOTAL_BYTES:
                raise RefusedError(
                    f"it has more than {MAX_ROWS} rows, or more than {MAX_TOTAL_BYTES} bytes of prompts",
                    "give --param most_rows=N: the first N are used",
                )
            self._rows.append(raw)
            self._contents.append(content)
            for part in (raw, content):
                encoded = part.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "big") + encoded)
        if not self._rows:
            raise RefusedError("it has no rows", "look at its arguments: which split or folder do they name?")
        self.digest = digest.hexdigest()
        self._judged(0, "")  # what is built at first use is built before the forks, from no stranger's text

    @property
    def told(self) -> dict[str, Any]:
        """What the host learns when the process is ready."""
        weights = {name: float(weight).hex() for name, weight in self._adapted.weights.items()}
        return {"digest": self.digest, "count": len(self._rows), "weights": weights}

    def answer(self, message: dict[str, Any], steady: Steady) -> dict[str, Any]:
        """In a confined fork: some rows, or a judgement, as a verdict whose `out` is JSON."""
        if message["ask"] == "rows":
            return {"passed": True, "stage": "rows", "detail": "", "out": json.dumps(self._some(message["first"]))}
        if message["ask"] == "values":
            return {"passed": True, "stage": "values", "detail": "", "out": json.dumps(_values(self._contents[message["row"]]))}
        world = int(message["world"])
        steady.put_in_place(world << 32 | int(message["row"]), world * WORLD_S)
        os.environ["HOME"] = "/tmp"  # the fork's own; where loading kept its downloads is not seen here
        if "numpy" in sys.modules:
            with contextlib.suppress(Exception):
                sys.modules["numpy"].random.seed(world + int(message["row"]) & 0xFFFF_FFFF)
        given = [self._judged(int(message["row"]), message["text"]) for _ in range(int(message["times"]))]
        return {"passed": True, "stage": "judged", "detail": "", "out": json.dumps(given)}

    def _some(self, first: int) -> list[str]:
        found: list[str] = []
        size = 0
        for row in self._rows[first:]:
            size += len(row)
            if found and size > _PART_BYTES:
                break
            found.append(row)
        return found

    def _judged(self, row: int, text: str) -> dict[str, Any]:
        try:
            total, scores = self._adapted.judge(row, text)
            return {"total": float(total).hex(), "scores": {str(name): float(one).hex() for name, one in scores.items()}}
        except BaseException as error:  # noqa: BLE001 - whatever it is, the judgement has failed, and only its kind is told
            return {"fault": type(error).__name__[:80]}


def load(options: dict[str, Any], steady: Steady) -> Foreign:
    """The environment that the options name; see `foreign_kind.kind_of`. Clocks and randomness are steady from here on.

    Raises:
        RefusedError: it cannot be had, or cannot be adapted.
    """
    world = int(options.get("world", 0))
    steady.put_in_place(world << 32, world * WORLD_S, dates=False)
    with contextlib.suppress(ImportError):
        importlib.import_module("tqdm").tqdm.monitor_interval = 0  # a bar's thread would be there when this process forks
    modules = [OwnModule(*module) for module in options["modules"]]
    try:
        digest = digest_of(modules)
    except (NoModuleError, OSError) as error:
        raise RefusedError(str(error), "install the package anew") from error
    if digest != options["digest"]:
        raise RefusedError("its files have changed since it was looked at", "start again")
    own = put_first(modules, {"datetime": steady.dates})
    form: Callable[[dict[str, Any], OwnModules], Adapted]
    if options["form"] == "verifiers":
        from grail_envs.adapters.verifiers_side import adapt as form
    else:
        from grail_envs.adapters.stepped_side import adapt as form
    try:
        loaded = Foreign(form(options, own))
    except RefusedError:
        raise
    except NotOwnError as error:
        raise RefusedError(str(error), error.hint) from error
    except BaseException as error:  # a package's code may raise anything
        text = str(error).split("\n", maxsplit=1)[0][:200]
        raise RefusedError(
            f"it cannot be loaded: {type(error).__name__}: {text}{_place_of(error, own)}", hint_of(error, options, own)
        ) from error
    for _ in range(_PATIENCE):
        others, children = _threads(), has_children()
        if not others and not children:
            break
        time.sleep(0.05)  # one that was joined is in the kernel's list for a moment more
    if others:
        raise RefusedError(
            f"it starts threads when it is loaded ({', '.join(others)}), and a process with threads cannot be forked safely",
            "start them when they are needed, or not at all",
        )
    if children:
        raise RefusedError(
            "it starts processes when it is loaded and leaves them", "judgements must not know of each other: end them"
        )
    return loaded


def hint_of(error: BaseException, options: dict[str, Any], own: OwnModules) -> str:
    """What would help against an error that a package's own code raises while it is loaded."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        if own.owns(error.name):
            return f"its files lack {error.name}: pip install --force-reinstall the package"
        return f"it needs {error.name.partition('.')[0]}, which is not installed: pip install what it asks for"
    if isinstance(error, ImportError):
        return "it and what it needs do not fit together: install the versions that its author used"
    if (isinstance(error, TypeError) and ("argument" in str(error))) or type(error).__name__ == "ValidationError":
        return "its arguments are --param arguments='{\"name\": value}'"
    if isinstance(error, FileNotFoundError):
        where = options["data_dir"] or "not set"
        return f"a file that it reads is not there; the data folder (GRAIL_DATA_DIR, --data-dir) is {where}"
    if isinstance(error, PermissionError):
        return "it is loaded as a user without rights: its files and folders have to be readable for everybody"
    if isinstance(error, OSError):
        return "does it need the network, or a file? try again where it has it"
    if isinstance(error, SystemExit):
        return "it ends the process that loads it: look at its arguments"
    return "its own code raised this: look there, and at the arguments it was given"


def _place_of(error: BaseException, own: OwnModules) -> str:
    """File and line of the package where it was raised, if one of its own was on the way."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        if own.owns(str(trace.tb_frame.f_globals.get("__name__"))):
            place = f" (in {os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def finished(value: Any) -> Any:
    """A value, or what an awaitable comes to."""
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


def plain_messages(messages: Sequence[Any], number: int) -> list[dict[str, str]]:
    """Roles and texts of a library's own messages.

    Raises:
        RefusedError: one is no text.
    """
    plain = []
    for message in messages:
        one = message if isinstance(message, dict) else message.model_dump()
        content = one.get("content")
        if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            content = "\n".join(part["text"] for part in content)
        if not isinstance(content, str) or one.get("tool_calls"):
            raise RefusedError(f"row {number} asks with something that is no text", "images and tool calls are not adapted")
        plain.append({"role": str(one.get("role")), "content": content})
    return plain


def _values(content: str) -> list[str]:
    """Short values that stand in a row, the ones that look like a right answer first."""
    try:
        row = json.loads(content)
    except ValueError:
        row = {
            "answer": content.rpartition(":")[2],
            "words": content.split()[-1:],
        }  # a text alone: its end may say what is asked
    found: list[tuple[bool, str]] = []

    def look(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, one in value.items():
                look(str(inner), one)
        elif isinstance(value, list):
            for one in value:
                look(name, one)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            text = str(value).rpartition("####")[2].strip()
            likely = any(word in name.lower() for word in ("answer", "gold", "target", "solution", "expected", "label"))
            if 0 < len(text) <= 400:
                found.append((not likely, text))

    look("", row)
    return list(dict.fromkeys(text for _, text in sorted(found, key=lambda one: one[0])))


def _checked_row(number: int, messages: list[dict[str, str]]) -> str:
    if not messages or any(one["role"] not in _ROLES for one in messages) or messages[-1]["role"] != "user":
        roles = ", ".join(one["role"] for one in messages) or "nothing"
        raise RefusedError(
            f"row {number} does not end with what a user says (it has {roles})", "only tasks of a single turn are adapted"
        )
    try:
        size = sum(len(one["content"].encode()) for one in messages)
    except UnicodeEncodeError:
        raise RefusedError(f"row {number} holds half of a surrogate pair, which is no text", "mend the data set") from None
    if size > MAX_PROMPT_BYTES:
        raise RefusedError(f"row {number} asks with {size} bytes", f"at most {MAX_PROMPT_BYTES} are asked")
    return json.dumps(messages)


async def _awaited(value: Any) -> Any:
    return await value


def _threads() -> list[str]:
    own = os.getpid()
    found = []
    for task in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else []:
        if int(task) != own:
            with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as stream:
                found.append(stream.read().strip() or "unnamed")
    return sorted(found)
