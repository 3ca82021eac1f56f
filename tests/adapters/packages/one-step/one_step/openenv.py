"""The form of OpenEnv: a server's environment class, used without its server."""

from typing import Any

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

from one_step import asked, earned, word_of


class Say(Action):
    message: str


class Shown(Observation):
    prompt: str


class Backwards(Environment[Say, Shown, State]):
    def __init__(self, length: int = 1) -> None:
        super().__init__()
        self._length = length
        self._word = ""
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Shown:
        self._word = word_of(seed or 0, self._length)
        return Shown(prompt=asked(self._word))

    def step(self, action: Say, timeout_s: float | None = None, **kwargs: Any) -> Shown:
        return Shown(prompt="", reward=earned(self._word, action.message), done=True)

    @property
    def state(self) -> State:
        return self._state
