"""D4, D5, D6: files and rows that cost, break or lie, before a validator as shipped that judges an honest miner beside them.

D4 is caught if the file is failed by check 1 or 2 and no child that opened it took more than the limits of one page. D5 is
caught if nothing of the file ever reached the model. D6 is caught by the check that reads rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from grail_core.files.window_file import write_window_file
from grail_core.protocol import RolloutRecord
from grail_core.protocol.constants import (
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    MAX_ROW_BYTES,
    ROLLOUTS_PER_PROBLEM,
    SKETCH_BYTES_PER_POSITION,
)
from grail_core.protocol.types import Signature
from tooling.adversaries.crowd import HONEST, MOST, Liar, Lie, crowd_of, honest, ruling, try_lies
from tooling.adversaries.family_x_files import MAX_PEAK_BYTES, MAX_SECONDS
from tooling.adversaries.hostile_parquet import bombs, footers_that_end_a_process
from tooling.adversaries.rows import Row, Try
from tooling.adversaries.tampering import as_tokens, constant_sketches, with_completion
from tooling.testing.window_files import made_header, made_rows

UNIT = "files in one window"
Corpus = Callable[[bytes], Mapping[str, bytes]]
_NESTED = ("structs nested 5,000 deep", "a schema of 10^5 columns", "metadata of 10^5 entries", "a header of 1 MiB")


def d4(*, quick: bool = False) -> dict[str, Any]:
    """Bombs, claims and nesting of the hostile corpus; text that is no UTF-8, numbers that are none. X1 and X2 have all of the
    corpus before the opening alone; quick takes every third bomb."""
    row = Row("D4", UNIT)
    lies = {name: _of_the_corpus(name, bombs) for name in _sealable(bombs)[:: 3 if quick else 1]}
    lies |= {name: _of_the_corpus(name, footers_that_end_a_process) for name in _NESTED}
    lies |= {
        "NaN for a reward": lambda liar: liar.written(lambda row: row.update(reward=float("nan"))),
        "infinity for a reward": lambda liar: liar.written(lambda row: row.update(reward=float("inf"))),
        "NaN for a log-probability": lambda liar: liar.written(_nan_logprobs),
        "a header that is no UTF-8": lambda liar: liar.pack(liar.groups()).replace(b'"window"', b'"w\xffndow"'),
    }
    expected = dict.fromkeys(lies, "file") | {name: "schema" for name in lies if " for a " in name}
    names = list(lies)
    for start in range(0, len(names), MOST):
        crowd = try_lies(row, {name: lies[name] for name in names[start : start + MOST]}, expected=expected)
        greedy = [one for one in crowd.spent if one.processor_seconds > MAX_SECONDS or one.peak_bytes > MAX_PEAK_BYTES]
        row.tries.append(Try("memory and time of the children", bool(greedy), "file", f"beyond their limits: {greedy}"))
    return row.to_json()


def d5() -> dict[str, Any]:
    """Ids outside the vocabulary, and sequences beyond a limit of row, policy or model."""
    row = Row("D5", UNIT)
    lies, expected = {name: lie for name, (lie, _) in TOKENS.items()}, {name: check for name, (_, check) in TOKENS.items()}
    with crowd_of(lies) as crowd:
        crowd.mine()
        (body,) = crowd.judge(crowd.validator())
        for name in lies:
            verdict = crowd.verdict(body, name)
            found = ruling(name, verdict, expected[name])
            row.tries.append(replace(found, accepted=True, message="it reached the model") if verdict.sampled else found)
        honest(row, crowd.verdict(body, HONEST))
    return row.to_json()


def d6() -> dict[str, Any]:
    """Rewards that nobody earned. Twins: one that differs by less than rounding, and what the environment gives."""
    row = Row("D6", UNIT)
    lies = {name: lie for name, (lie, _) in REWARDS.items()}
    try_lies(row, lies, expected={name: check for name, (_, check) in REWARDS.items()})
    with crowd_of({"rounding": lambda liar: liar.made(lambda record: replace(record, reward=record.reward + 1e-12))}) as crowd:
        crowd.mine()
        (body,) = crowd.judge(crowd.validator())
        for name in (HONEST, "rounding"):
            honest(row, crowd.verdict(body, name))
    return row.to_json()


# --- lies about tokens ------------------------------------------------------------------------------------------------


def _sized(completion: int, prompt: int | None = None) -> Callable[[RolloutRecord], RolloutRecord]:
    """A row of so many tokens with all columns of the right length."""

    def change(record: RolloutRecord) -> RolloutRecord:
        length = record.prompt_length if prompt is None else prompt
        head = np.resize(record.prompt, length)
        return replace(
            record,
            tokens=as_tokens((*head.tolist(), *[97] * completion)),
            prompt_length=length,
            logprobs=np.full(completion, -1, np.float32),
            sketches=constant_sketches(completion + 1),
        )

    return change


def _over(completion: int, prompt: int) -> Lie:
    """The first row is longer than any record may be."""

    def change(row: dict[str, Any]) -> None:
        row.update(
            tokens=np.full(prompt + completion, 97, np.int32),
            prompt_length=prompt,
            logprobs=np.full(completion, -1, np.float32),
            sketches=bytes(SKETCH_BYTES_PER_POSITION * (completion + 1)),
        )

    return lambda liar: liar.written(change)


def _token(token: int) -> Lie:
    return lambda liar: liar.made(lambda record: with_completion(record, [token] * record.completion_length))


def _negative(row: dict[str, Any]) -> None:
    row["tokens"] = np.concatenate([row["tokens"][:-1], np.array([-1], np.int32)])


def _no_completion(row: dict[str, Any]) -> None:
    row.update(tokens=row["tokens"][: row["prompt_length"]], logprobs=np.zeros(0, np.float32), sketches=bytes(8))


def _prompt_of_nothing(row: dict[str, Any]) -> None:
    row["prompt_length"] = 0


TOKENS: dict[str, tuple[Lie, str]] = {
    "the first id that is none": (lambda liar: _token(liar.loaded.model.vocabulary_size)(liar), "schema"),
    "the largest id": (_token(2**31 - 1), "schema"),
    "a negative id": (lambda liar: liar.written(_negative), "schema"),
    "no completion": (lambda liar: liar.written(_no_completion), "schema"),
    "no prompt": (lambda liar: liar.written(_prompt_of_nothing), "schema"),
    "one token over the policy's limit": (lambda liar: liar.made(_sized(9)), "termination"),
    "as long as the protocol allows": (lambda liar: liar.made(_sized(MAX_NEW_TOKENS_PROTOCOL_CAP)), "termination"),
    "a completion over the protocol's": (_over(MAX_NEW_TOKENS_PROTOCOL_CAP + 1, 4), "file"),
    "a prompt over the protocol's": (_over(1, MAX_PROMPT_TOKENS + 1), "schema"),
    "the longest prompt": (lambda liar: liar.made(_sized(8, MAX_PROMPT_TOKENS)), "prompt"),
    "two prompts in a group": (lambda liar: liar.pack([_with_two_prompts(liar)]), "schema"),
}


def _with_two_prompts(liar: Liar) -> Any:
    (group,) = liar.groups()
    first, *others = group.rollouts
    other = first.tokens.copy()
    other[0] += 1
    return replace(group, rollouts=(replace(first, tokens=other), *others))


# --- lies about rewards -----------------------------------------------------------------------------------------------


def _claimed(**fields: Any) -> Lie:
    return lambda liar: liar.made(lambda record: replace(record, **fields))


REWARDS: dict[str, tuple[Lie, str]] = {
    "success that was none": (lambda liar: liar.made(lambda record: replace(record, success=not record.success)), "reward"),
    "a little more": (lambda liar: liar.made(lambda record: replace(record, reward=record.reward + 1e-3)), "reward"),
    "all of it": (_claimed(reward=1.0, success=True), "reward"),
    "more than there is": (_claimed(reward=1e300), "reward"),
    "less than nothing": (_claimed(reward=-1e300), "reward"),
    "no number": (lambda liar: liar.written(lambda row: row.update(reward=float("nan"))), "schema"),
    "no end": (lambda liar: liar.written(lambda row: row.update(reward=float("-inf"))), "schema"),
    "a negative zero": (lambda liar: liar.written(lambda row: row.update(reward=-0.0)), "schema"),
}


# --- files of the hostile corpus --------------------------------------------------------------------------------------


def _of_the_corpus(name: str, corpus: Corpus) -> Lie:
    """What the corpus makes of the liar's own honest file."""
    return lambda liar: corpus(liar.pack(liar.groups()))[name]


def _sealable(corpus: Corpus) -> list[str]:
    """Those that a seal can promise: no empty file, none with more bytes than rows allow."""
    files = corpus(write_window_file(made_header(1), Signature(b"\x08" * 64), made_rows(0, 1, 8)))
    return [name for name, data in files.items() if 0 < len(data) <= MAX_ROW_BYTES * ROLLOUTS_PER_PROBLEM]


def _nan_logprobs(row: dict[str, Any]) -> None:
    row["logprobs"] = np.full_like(row["logprobs"], np.nan)


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"D4": d4, "D5": d5, "D6": d6}
