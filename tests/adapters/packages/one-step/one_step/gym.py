"""The form of Gymnasium, registered as OneStep/Backwards-v0 by importing `one_step.gym`."""

from typing import Any

import gymnasium
from gymnasium.spaces import Text

from one_step import asked, earned, word_of


class Backwards(gymnasium.Env[str, str]):
    def __init__(self, length: int = 1) -> None:
        self.observation_space, self.action_space = Text(200), Text(200)
        self._length = length
        self._word = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._word = word_of(seed or 0, self._length)
        return asked(self._word), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", earned(self._word, action), True, False, {}


gymnasium.register("OneStep/Backwards-v0", Backwards)
