"""Every Python example of docs/rollouts.md runs as its reader would run it, on shards of the real writer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from grail_core.exported.folder import About, card_of
from grail_core.exported.rows import Row
from grail_core.exported.shards import encode_shard
from grail_core.protocol.types import Digest
from tooling import REPOSITORY
from tooling.testing.models.tiny_qwen2 import save_byte_model

EXAMPLES = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/rollouts.md").read_text(encoding="utf-8"), re.DOTALL)


def rollout(number: int) -> Row:
    text = f"x{number % 5}"
    return Row(
        window=30 * (1 + number // 64),
        hotkey="5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty",
        group=number // 16,
        rollout=number % 16,
        group_id=f"30/5F/{number // 16}",
        checkpoint="c" * 64,
        environment="sat",
        prompt="a question",
        completion=text,
        prompt_ids=np.frombuffer(b"a question" * (1 + number % 2), np.uint8).astype(np.int32),
        completion_ids=np.frombuffer(text.encode() * (1 + number % 3), np.uint8).astype(np.int32),
        logprobs=np.full(2 * (1 + number % 3), -0.5, np.float32),
        reward=float(number % 4),
        success=number % 4 == 3,
        truncated=False,
        sampled=number % 2 == 1,
        rollout_digest="e" * 64,
        content_digest="d" * 64,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an export of two windows leaves, in three formats, and a model over bytes."""
    root = tmp_path_factory.mktemp("reader")
    rows = [rollout(number) for number in range(128)]
    for name, encoding in (("rollouts", "parquet"), ("dataset", "parquet"), ("rollouts-jsonl", "jsonl")):
        (root / name / "data").mkdir(parents=True)
        for number, some in enumerate((rows[:64], rows[64:])):
            path = root / name / "data" / f"{30 * (number + 1):012}-5F.{encoding}"
            path.write_bytes(b"".join(encode_shard(some, "jsonl" if encoding == "jsonl" else "parquet")))
    (root / "dataset" / "README.md").write_bytes(card_of(About("hf", "localnet", Digest(bytes(32)))))
    save_byte_model(root / "model")
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    tokenizer.pad_token = tokenizer.eos_token  # without one TRL adds a token that this model has no embedding for
    tokenizer.save_pretrained(root / "model")
    return root


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(folder: Path, number: int) -> None:
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", EXAMPLES[number]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.strip()


def test_there_is_one_for_each_reader() -> None:
    assert [name for name in ("pandas", "datasets", "trl", "DataProto", "TrainingSample") if name in "".join(EXAMPLES)] == [
        "pandas",
        "datasets",
        "trl",
        "DataProto",
        "TrainingSample",
    ]
