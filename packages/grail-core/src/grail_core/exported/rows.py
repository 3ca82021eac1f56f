"""One exported rollout: the columns of `docs/rollouts.md`, as a value that holds its own rules.

Values come from files that a miner signed and validators accepted, or from a folder that a stranger may have made: making a
`Row` of either refuses what a rollout cannot be. That its tokens were drawn by a model is not to be seen from a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from grail_core.protocol.constants import (
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    ROLLOUTS_PER_PROBLEM,
)
from grail_core.protocol.reading import MAX_JSON_INTEGER
from grail_core.protocol.rollouts.records import MAX_GROUP_ID

MAX_TEXT: Final = 32 * (MAX_PROMPT_TOKENS + MAX_NEW_TOKENS_PROTOCOL_CAP)
"""Characters of a prompt or an answer, 32 a token of the longest rollout; what is longer is cut, and its tokens are not."""
MAX_NAME: Final = 128
MAX_REWARD: Final = 1e30
"""Either way, of a row that is read: sums and squares of some thousand are numbers."""

_NAMES = ("hotkey", "group_id", "checkpoint", "environment", "rollout_digest", "content_digest")
_FLAGS = ("success", "truncated", "sampled")


@dataclass(frozen=True, eq=False)
class Row:
    """One rollout. Arrays are one-dimensional. Raises ValueError, naming the column, for what a rollout cannot be."""

    window: int
    hotkey: str  # SS58
    group: int
    rollout: int  # 0 … 15
    group_id: str  # window/hotkey/group: rollouts of one problem have it in common
    checkpoint: str  # hex digest of the manifest whose model drew it
    environment: str
    prompt: str  # as the model reads it, control tokens included
    completion: str  # as the environment graded it, without them
    prompt_ids: npt.NDArray[np.int32]
    completion_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]  # of completion_ids, as the miner claims them
    reward: float
    success: bool
    truncated: bool  # it ends without an end token
    sampled: bool  # a validator that accepted the file opened this very rollout
    rollout_digest: str  # hex, a leaf of the Merkle tree in the file's signed header
    content_digest: str  # hex SHA-256 of the accepted file

    def __post_init__(self) -> None:
        for name in _NAMES:
            _require(isinstance(getattr(self, name), str) and 0 < len(getattr(self, name)) <= MAX_NAME, name, "no short text")
        for name in ("prompt", "completion"):
            _require_text(name, getattr(self, name))
        for name in _FLAGS:
            _require(isinstance(getattr(self, name), bool), name, "no truth value")
        for name, most in (("window", MAX_JSON_INTEGER), ("group", MAX_GROUP_ID), ("rollout", ROLLOUTS_PER_PROBLEM - 1)):
            value = getattr(self, name)
            _require(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most, name, "out of range")
        _require_tokens("prompt_ids", self.prompt_ids, MAX_PROMPT_TOKENS)
        _require_tokens("completion_ids", self.completion_ids, MAX_NEW_TOKENS_PROTOCOL_CAP)
        _require(self.logprobs.dtype == np.float32 and self.logprobs.ndim == 1, "logprobs", "no float32")
        _require(len(self.logprobs) == len(self.completion_ids), "logprobs", "not one for each token of the completion")
        _require(bool(np.isfinite(self.logprobs).all()), "logprobs", "not finite")
        _require(isinstance(self.reward, float) and bool(np.isfinite(self.reward)), "reward", "no finite number")

    def to_json(self) -> dict[str, Any]:
        """A JSON value. Each float32 is the shortest number that gives it back."""
        value = {one.name: getattr(self, one.name) for one in fields(self)}
        value["prompt_ids"], value["completion_ids"] = self.prompt_ids.tolist(), self.completion_ids.tolist()
        value["logprobs"] = [float(str(one)) for one in self.logprobs]
        return value

    def to_line(self) -> str:
        """The same as JSON text; nine digits give a float32 back, and are quicker to write than the fewest."""
        texts = []
        for name in COLUMNS:
            value = getattr(self, name)
            if name == "logprobs":
                texts.append(f'"{name}":[{",".join([f"{one:.9g}" for one in value.tolist()])}]')
            else:
                plain = value.tolist() if isinstance(value, np.ndarray) else value
                texts.append(f'"{name}":{json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)}')
        return "{" + ",".join(texts) + "}"


COLUMNS: Final = tuple(one.name for one in fields(Row))


def row_of(value: object) -> Row:
    """A row from a JSON value, or from a line of a table. Raises ValueError."""
    if not isinstance(value, Mapping) or value.keys() != set(COLUMNS):
        raise ValueError("a row has other columns than an exported rollout")
    plain = dict(value)
    for name in ("prompt_ids", "completion_ids"):
        plain[name] = _integers(name, plain[name])
    plain["logprobs"] = _floats(plain["logprobs"])
    plain["reward"] = _reward(plain["reward"])
    for name in _NAMES:  # they are said in messages
        _require(isinstance(plain[name], str) and plain[name].isprintable(), name, "no short text")
    return Row(**plain)


def _reward(value: object) -> float:
    holds = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_REWARD  # NaN is not
    _require(holds, "reward", f"no number of at most {MAX_REWARD:g}")
    assert isinstance(value, int | float)
    return float(value)


def _integers(name: str, values: object) -> npt.NDArray[np.int32]:
    if isinstance(values, np.ndarray):
        return values.astype(np.int32, copy=False)
    if not isinstance(values, list) or len(values) > MAX_PROMPT_TOKENS + MAX_NEW_TOKENS_PROTOCOL_CAP:
        raise ValueError(f"{name}: no array of token ids")
    if not set(map(type, values)) <= {int} or not all(
        0 <= one < 2**31 for one in (min(values, default=0), max(values, default=0))
    ):
        raise ValueError(f"{name}: what is no token id stands in it")
    return np.array(values, np.int32)


def _floats(values: object) -> npt.NDArray[np.float32]:
    if isinstance(values, np.ndarray):
        return values.astype(np.float32, copy=False)
    if not isinstance(values, list) or len(values) > MAX_NEW_TOKENS_PROTOCOL_CAP:
        raise ValueError("logprobs: no array of numbers")
    if not set(map(type, values)) <= {int, float} or max(map(abs, values), default=0.0) > 1e30:
        raise ValueError("logprobs: what is no number stands in it")
    return np.array(values, np.float32)


def _require_text(name: str, text: object) -> None:
    _require(isinstance(text, str) and len(text) <= MAX_TEXT, name, "no text of a rollout")
    try:
        str(text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: a lone surrogate, which UTF-8 cannot hold") from error


def _require_tokens(name: str, values: npt.NDArray[np.int32], most: int) -> None:
    _require(values.dtype == np.int32 and values.ndim == 1, name, "no int32")
    _require(0 < len(values) <= most, name, f"{len(values)} tokens, 1 … {most} are allowed")
    _require(int(values.min()) >= 0, name, "a negative token id")


def _require(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{name}: {what}")
