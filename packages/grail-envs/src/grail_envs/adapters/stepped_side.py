"""Environments of reset and step in the process that holds them: Gymnasium's form, and OpenEnv's with typed actions.

Row N is what `reset(seed=N)` shows. A judgement makes a fresh environment, resets it with that seed, insists that it shows the
same text, and gives the completion to `step`, which has to end the episode. The libraries themselves are imported only where
an id of Gymnasium's registry is named: otherwise the form alone counts.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from grail_envs.adapters.foreign_side import Adapted, RefusedError, finished
from grail_envs.adapters.own_modules import NotOwnError, OwnModules

SINGLE_TURN = "only tasks that are over after one step are adapted"
DEFAULT_ROWS = 1024
TRIED = ("", "0", "yes", "a", "1 2 3")
"""Short texts that most spaces of actions hold."""

_TRY_S = 20
_GOES_ON = 71


class NotOverError(Exception):
    """A step did not end the episode."""


class ShownOtherwiseError(Exception):
    """A reset with the same seed shows another text than before."""


class NoRewardError(Exception):
    """A step gave no reward."""


class NotAnActionError(Exception):
    """The environment's space of actions does not hold the text."""


def adapt(options: dict[str, Any], own: OwnModules) -> Adapted:
    """The environment that `entry` names.

    Raises:
        RefusedError: it is not there, is not of text, or goes on after a step.
    """
    made = Stepped(_OpenEnv(options, own) if options["form"] == "openenv" else _Gymnasium(options, own), options["most_rows"])
    made.try_one()
    return made


class Stepped:
    """Rows and judgements of either form."""

    def __init__(self, form: Any, most: int) -> None:
        self.weights = {"reward": 1.0}
        self._form = form
        self._count = most or DEFAULT_ROWS
        self._texts: list[str] = []

    def rows(self) -> Iterator[tuple[list[dict[str, str]], str]]:
        environment = self._form.make()
        for seed in range(self._count):
            text = self._form.reset(environment, seed)
            self._texts.append(text)
            yield [{"role": "user", "content": text}], text

    def judge(self, index: int, text: str) -> tuple[float, dict[str, float]]:
        environment = self._form.make()
        if self._form.reset(environment, index) != self._texts[index]:
            raise ShownOtherwiseError
        reward = self._form.step(environment, text)
        return reward, {"reward": reward}

    def try_one(self) -> None:
        """Steps of a few texts, each in a fork; what comes of one is its own affair, going on after it is not."""
        for text in TRIED:
            pid = os.fork()
            if pid == 0:
                code = 0
                try:
                    signal.alarm(_TRY_S)
                    environment = self._form.make()
                    self._form.reset(environment, 0)
                    self._form.step(environment, text)
                except NotOverError:
                    code = _GOES_ON
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            if os.waitstatus_to_exitcode(status) == _GOES_ON:
                raise RefusedError("it goes on after the first step", SINGLE_TURN)


class _Gymnasium:
    def __init__(self, options: dict[str, Any], own: OwnModules) -> None:
        entry, self._arguments, module = options["entry"], options["arguments"], options["module"]
        place, colon, inner = entry.rpartition(":")
        if all(part.isidentifier() for part in inner.split(".")):
            self._make = own.attribute(entry, module)
        else:
            self._make = _registered(own, place if colon else module, inner)
        space = getattr(self.make(), "action_space", None)
        if space is not None and type(space).__name__ != "Text":
            raise RefusedError(f"its actions are {type(space).__name__}, not Text", "only environments of text are adapted")

    def make(self) -> Any:
        return self._make(**self._arguments)

    def reset(self, environment: Any, seed: int) -> str:
        shown, _ = finished(environment.reset(seed=seed))
        return _text(shown)

    def step(self, environment: Any, text: str) -> float:
        space = getattr(environment, "action_space", None)
        if space is not None and not space.contains(text):
            raise NotAnActionError
        _, reward, terminated, truncated, _ = finished(environment.step(text))
        if not terminated and not truncated:
            raise NotOverError
        return float(reward)


class _OpenEnv:
    def __init__(self, options: dict[str, Any], own: OwnModules) -> None:
        module = options["module"]
        self._make = own.attribute(options["entry"], module)
        self._arguments = options["arguments"]
        self._action = own.attribute(options["action"], module)
        self._said = options["action_field"] or _only_text(self._action)
        self._shown = options["observation_field"]

    def make(self) -> Any:
        return self._make(**self._arguments)

    def reset(self, environment: Any, seed: int) -> str:
        shown = finished(environment.reset(seed=seed))
        return _text(getattr(shown, self._shown or _only_text(type(shown))))

    def step(self, environment: Any, text: str) -> float:
        result = finished(environment.step(self._action(**{self._said: text})))
        if not result.done:
            raise NotOverError
        if result.reward is None:
            raise NoRewardError
        return float(result.reward)


def _registered(own: OwnModules, module: str, env_id: str) -> Any:
    """What makes an environment of Gymnasium's registry that the package itself put there, of a class of its own."""
    own.imported(module)  # registers its ids
    gymnasium = importlib.import_module("gymnasium")
    spec = gymnasium.registry.get(env_id)
    if spec is None:
        raise NotOwnError(f"{module} registers no {env_id!r} with Gymnasium", "write module:Name-v0, as it is registered")
    made = spec.entry_point
    if isinstance(made, str):
        made = own.attribute(made, module)
    if not own.defines(made):
        raise NotOwnError(f"{env_id} is made by code of another package", "name an environment that the package defines")
    return functools.partial(gymnasium.make, spec, disable_env_checker=True)


def _text(shown: Any) -> str:
    if not isinstance(shown, str):
        raise RefusedError(f"it shows a {type(shown).__name__}, not a text", "only environments of text are adapted")
    return shown


def _only_text(kind: Any) -> str:
    """The one field of a model that is a text."""
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    kinds = {name: getattr(field, "annotation", None) or getattr(field, "type", None) for name, field in fields.items()}
    texts = [name for name, one in kinds.items() if one in (str, "str")]
    if len(texts) != 1:
        raise RefusedError(
            f"{kind.__name__} has {len(texts)} fields of text ({', '.join(texts) or 'none'})",
            "name one with --param action_field=… or observation_field=…",
        )
    return str(texts[0])
