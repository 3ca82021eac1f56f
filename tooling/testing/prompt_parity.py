"""Prompts beside Transformers': (tokenizer, template, conversation) drawn at random, both sides' tokens, what differs.

    python -m tooling.testing.prompt_parity --triples 2000

A triple counts where Transformers makes a prompt of it and no content has a control token in it. It is `equal`, or `refused` by
a CheckpointError that names the feature, or `wrong`. Where Transformers makes none, neither must we: `neither`.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.environment import Message
from grail_core.errors import CheckpointError, ProtocolViolationError
from grail_core.model.prompts import PromptRenderer
from tooling.testing.prompt_folders import draw_conversation, draw_folder

CASES = Path(__file__).parents[2] / "tests" / "cases" / "prompt_templates.json"


@dataclass(frozen=True)
class Compared:
    """What came of one triple: `equal`, `refused`, `wrong`, or `neither` (Transformers makes no prompt of it, nor do we)."""

    outcome: str
    kind: str  # of tokenizer
    detail: str = ""


def templates() -> list[str]:
    """Every template of the cases that prompts are made with."""
    return [case["template"] for case in json.loads(CASES.read_text("utf-8")) if case["right"] == "equal"]


def reference(folder: Path, conversation: list[dict[str, str]], *, thinking: bool = False) -> list[int]:
    """What Transformers makes of it. Raises whatever it raises."""
    from transformers import PreTrainedTokenizerFast

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = PreTrainedTokenizerFast.from_pretrained(str(folder)).apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=thinking
        )
    return list(made)


def compare(seed: int, path: Path) -> Compared:
    """One triple, in a folder that is made at `path`."""
    shapes = templates()
    drawn = draw_folder(seed, shapes[seed % len(shapes)], path)
    controls = [one["content"] for one in drawn.files["tokenizer.json"]["added_tokens"] if one["special"]]
    conversation = draw_conversation(seed, [*controls, "<think>", "</think>"])
    thinking = seed % 3 == 0
    try:
        wanted: list[int] | None = reference(path, conversation, thinking=thinking)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it raises, a panic in Rust too, there is no prompt
        wanted, reason = None, f"{type(error).__name__}: {error}"
    try:
        renderer = PromptRenderer(path, "native" if thinking else "none")
        made: list[int] | None = list(renderer.render([Message(turn["role"], turn["content"]) for turn in conversation]))
        refused = None
    except (CheckpointError, ProtocolViolationError) as error:
        made, refused = None, error
    if wanted is None:
        return Compared("neither" if made is None else "wrong", drawn.kind, f"Transformers: {reason}")
    if isinstance(refused, CheckpointError):
        return Compared("refused", drawn.kind, str(refused))
    return Compared("equal" if made == wanted else "wrong", drawn.kind, "" if made == wanted else f"{wanted}\n{made} {refused}")


def main() -> None:
    """Compare until so many triples counted; exit code 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=int, default=2000)
    parser.add_argument("--first-seed", type=int, default=0)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    seed = asked.first_seed
    with tempfile.TemporaryDirectory() as folder:
        while counts["equal"] + counts["refused"] + counts["wrong"] < asked.triples:
            path = Path(folder) / str(seed)
            found = compare(seed, path)
            shutil.rmtree(path)
            counts[found.outcome] += 1
            kinds[found.kind] += found.outcome == "equal"
            if found.outcome in ("wrong", "refused"):
                print(f"{found.outcome}: seed {seed}, {found.kind}: {found.detail}")
            seed += 1
    print(f"seeds {asked.first_seed} to {seed - 1}: {dict(counts)}; equal by tokenizer: {dict(kinds)}")
    raise SystemExit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
