"""The process that grades an answer: it holds the tests, and the answer only as an opaque partner that returns data.

The tests run here, as plain Python, in a process that the answer's code never enters. The names that the reference solution
defines are proxies; calling one sends the arguments over as data, and what comes back is rebuilt from plain types, so an
object that equals everything, a patched builtin or a forged message is just a wrong value. A handle of an object of the
answer's equals only itself. Lists, dictionaries and sets that a call changed in place are changed here too. Standard
library only.
"""

from __future__ import annotations

import builtins
import random
from typing import Any, TypeVar

from grail_envs.sandbox import wire

T = TypeVar("T")


class AnswerEndedError(Exception):
    """The answer's process is gone or talks nonsense: no test can pass any more."""


class Partner:
    """The grading side's end of the channel to the answer."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self.gone = ""

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One question and its reply.

        Raises:
            AnswerEndedError: now, or once before.
        """
        if self.gone:
            raise AnswerEndedError(self.gone)
        try:
            wire.send(self._channel, message)
            reply = wire.receive(self._channel)
        except (EOFError, OSError):
            self.gone = "the answer's process ended"
            raise AnswerEndedError(self.gone) from None
        except wire.WireError as error:
            self.gone = f"the answer's process sent no value: {error}"
            raise AnswerEndedError(self.gone) from None
        if not isinstance(reply, dict):
            self.gone = "the answer's process sent no reply"
            raise AnswerEndedError(self.gone)
        return reply

    def operate(self, number: int, operation: str, *arguments: Any, **named: Any) -> Any:
        """Do something with an object of the answer's and give back the value, or raise what it raised."""
        message = {"on": number, "op": operation, "args": [self._encoded(item) for item in arguments]}
        message["named"] = {name: self._encoded(item) for name, item in named.items()}
        reply = self.ask(message)
        if "x" in reply:
            raise _as_raised(reply["x"])
        back = reply.get("back")
        if operation == "call" and isinstance(back, list) and len(back) == len(arguments):
            for argument, changed in zip(arguments, back, strict=True):
                if changed:
                    _put_back(argument, self.decoded(changed))
        return self.decoded(reply.get("v"))

    def decoded(self, message: Any) -> Any:
        """A value of a reply."""
        try:
            return wire.decode(message, lambda number: Remote(self, number))
        except wire.WireError as error:
            self.gone = f"the answer's process sent no value: {error}"
            raise AnswerEndedError(self.gone) from None

    def _encoded(self, value: Any) -> Any:
        return wire.encode(value, _number_of)


class Remote:
    """An object that lives in the answer's process. Equal only to itself: what it would say of itself counts for nothing."""

    __slots__ = ("_number", "_partner")

    def __init__(self, partner: Partner, number: int) -> None:
        object.__setattr__(self, "_partner", partner)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._partner.operate(self._number, "call", *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return self._partner.operate(self._number, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._partner.operate(self._number, "setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._partner.operate(self._number, "getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._partner.operate(self._number, "setitem", key, value)

    def __len__(self) -> int:
        return _as(int, self._partner.operate(self._number, "len"))

    def __bool__(self) -> bool:
        return _as(bool, self._partner.operate(self._number, "bool"))

    def __str__(self) -> str:
        return _as(str, self._partner.operate(self._number, "str"))

    def __repr__(self) -> str:
        return _as(str, self._partner.operate(self._number, "repr"))

    def __iter__(self) -> Any:
        return iter(_as(list, self._partner.operate(self._number, "iter")))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._number == other._number

    def __hash__(self) -> int:
        return hash(self._number)


def grade(channel: int, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job against the answer: `{"passed": bool, "stage": str, "detail": str, "out": str}`.

    A job has `code`, `given`, `name`, `stdin`, `seed`, `program` and `remote` (the answer's side), `prelude` (Python that runs
    here first) and `tests` (Python, each must run without raising). Without tests it passes if the code ran; `out` is its
    output.
    """
    partner = Partner(channel)
    random.seed(job["seed"])
    try:
        asked = ("code", "given", "name", "stdin", "seed", "program", "remote")
        reply = partner.ask({key: job[key] for key in asked})
        out = reply.get("out")
        out = out if isinstance(out, str) and job["program"] else ""
        if "x" in reply or not isinstance(reply.get("names"), dict):
            return _verdict(False, "code", _shown(reply.get("x")), out)
        names = {known: partner.decoded(value) for known, value in reply["names"].items() if known in job["remote"]}
    except AnswerEndedError as error:
        return _verdict(False, "code", str(error), "")
    if not job["tests"]:
        return _verdict(True, "done", "", out)
    space: dict[str, Any] = {"__name__": "tests"}
    stage = "setup"
    try:
        # The data set's own text, in a confined process.
        exec(compile(job["prelude"], "<prelude>", "exec", dont_inherit=True), space)
        space.update(names)
        for number, test in enumerate(job["tests"]):
            stage = f"test {number}"
            exec(compile(test, f"<test {number}>", "exec", dont_inherit=True), space)
            if partner.gone:
                return _verdict(False, stage, partner.gone, out)
    except BaseException as error:  # noqa: BLE001 - a test that raises anything has not passed
        return _verdict(False, stage, f"{type(error).__name__}: {_text(error)}", out)
    return _verdict(True, "done", "", out)


def _verdict(passed: bool, stage: str, detail: str, out: str) -> dict[str, Any]:
    return {"passed": passed, "stage": stage, "detail": detail[:300], "out": out}


def _text(error: BaseException) -> str:
    try:
        return str(error)[:200]
    except Exception:  # noqa: BLE001 - an exception whose text raises
        return ""


def _shown(raised: Any) -> str:
    return ": ".join(part for part in raised if isinstance(part, str))[:300] if isinstance(raised, list) else "no reply"


def _as_raised(raised: Any) -> Exception:
    """What the answer raised, as the builtin exception of that name where there is one."""
    name = raised[0] if isinstance(raised, list) and raised and isinstance(raised[0], str) else ""
    kind = vars(builtins).get(name)
    text = _shown(raised)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError | AssertionError):
        return kind(text)
    return RuntimeError(text)


def _as(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError(f"not a {kind.__name__}")
    return value


def _number_of(value: Any) -> int:
    if type(value) is Remote:
        return int(object.__getattribute__(value, "_number"))
    raise TypeError(f"a test cannot pass a {type(value).__name__} to the answer")


def _put_back(argument: Any, changed: Any) -> None:
    if type(argument) is not type(changed):
        return
    if isinstance(argument, list | bytearray):
        argument[:] = changed
    elif isinstance(argument, dict | set):
        argument.clear()
        argument.update(changed)
