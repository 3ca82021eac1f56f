"""The process that runs an answer: executes its code, then obeys calls that arrive as data and replies with data.

Nothing here is trusted by anybody: the process holds no test, no expected value, no key and no channel but the one socket,
so code that reads its memory, replaces builtins or writes to every descriptor can only change the values it returns.
Standard library only.
"""

from __future__ import annotations
import __future__

import gc
import io
import sys
import types
from typing import Any

from grail_envs.sandbox import wire
from grail_envs.sandbox.steady import Steady

MAX_OUTPUT = 4 * 2**20
"""Characters a program may print; more is an error of the program."""

_FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
"""The compiler's flags that a `from __future__` sets, each a bit of its own."""


class _Output(io.StringIO):
    """A text stream in memory with an end."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_OUTPUT

    def write(self, text: str) -> int:
        self._left -= len(text)
        if self._left < 0:
            raise OSError("too much output")
        return super().write(text)


class AnswerSide:
    """Objects of the answer that the grading side may name, by number."""

    def __init__(self, channel: int, steady: Steady) -> None:
        self._channel = channel
        self._steady = steady
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def serve(self) -> None:
        """Run the first frame's code, then reply to every further frame, until the other side is gone."""
        try:
            self._reply(self._run(wire.receive(self._channel)))
            while True:
                self.step()
        except (EOFError, OSError, wire.WireError):
            return

    def step(self) -> None:
        """Obey one frame."""
        self._reply(self._obey(wire.receive(self._channel)))

    def keep(self, value: Any) -> int:
        """The number by which the grading side may name a value."""
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return number

    def _reply(self, message: dict[str, Any]) -> None:
        try:
            wire.send(self._channel, message)
        except (wire.WireError, ValueError) as error:
            wire.send(self._channel, {"x": ["ValueError", str(error)[:200]]})

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["name"]
        module = types.ModuleType(name)
        for hidden in [known for known in sys.modules if known.startswith("grail_envs") or known == "__main__"]:
            del sys.modules[hidden]
        sys.modules[name] = module
        sys.modules.setdefault("__main__", module)
        self._steady.put_in_place(request["seed"])
        output = _Output()
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(request["stdin"]), output, _Output()
        sys.argv = [name]
        gc.enable()
        try:
            # Both in their own confined process, one after the other: a `from __future__` stands first in either.
            given = _compiled(request["given"], name)
            exec(given, module.__dict__)
            exec(_compiled(request["code"], name, given.co_flags & _FUTURE), module.__dict__)
        except SystemExit as error:
            if not request["program"] or error.code not in (None, 0):
                return {**_described(error), "out": output.getvalue()}
        except BaseException as error:  # noqa: BLE001 - whatever the answer raises is its own failure
            return {**_described(error), "out": output.getvalue()}
        names = {
            known: wire.encode(module.__dict__[known], self.keep) for known in request["remote"] if known in module.__dict__
        }
        return {"names": names, "out": output.getvalue()}

    def _obey(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            target = self._objects[request["on"]]
            arguments = [wire.decode(item, self._objects.__getitem__) for item in request["args"]]
            operation = request["op"]
            if operation == "call":
                named = {name: wire.decode(item, self._objects.__getitem__) for name, item in request["named"].items()}
                value = target(*arguments, **named)
                encoded = wire.encode(value, self.keep)
                return {"v": encoded, "back": [_mutable(item) and wire.encode(item, self.keep) for item in arguments]}
            value = _OPERATIONS[operation](target, *arguments)
            return {"v": wire.encode(value, self.keep)}
        except BaseException as error:  # noqa: BLE001 - as above
            return _described(error)


def _compiled(code: str, name: str, flags: int = 0) -> types.CodeType:
    """Code of a file of its own: nothing of this file's `from __future__` holds there.

    Raises:
        SyntaxError: it does not compile, for whatever reason.
    """
    try:
        compiled: types.CodeType = compile(code.removeprefix("\ufeff"), f"<{name}>", "exec", flags, dont_inherit=True)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from None
    return compiled


_OPERATIONS: dict[str, Any] = {
    "getattr": getattr,
    "setattr": setattr,
    "getitem": lambda target, key: target[key],
    "setitem": lambda target, key, value: target.__setitem__(key, value),
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "iter": list,
}


def _mutable(value: Any) -> bool:
    return type(value) in (list, dict, set, bytearray)


def _described(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:200]
    except BaseException:  # noqa: BLE001 - an exception whose text raises
        text = ""
    return {"x": [str(type(error).__name__)[:100], text]}
