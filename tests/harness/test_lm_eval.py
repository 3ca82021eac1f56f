"""lm-evaluation-harness, unchanged, asks a node as it asks any server: ten questions of GSM8K, as texts and as conversations.

What it throws away, the receipts, lies in the node's state folder: each is checked as anybody checks it, and its text is the
one that was graded. The model is random, so the score says nothing and only has to be there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grail_core.checkpoints.served_model import read_served_folder
from grail_core.inference.features import Features
from grail_core.protocol.findings import Outcome
from grail_core.verification.receipt import ReceiptReport, check_receipt
from grail_core.verification.receipt_model import model_at_hand
from tooling.testing.serving_node import PATIENCE_S, save_served_model

MODEL = "tiny-model"
QUESTIONS = 10
STOPS = ["Question:", "</s>", "<|im_end|>", "\n"]
TASK = """
task: ten_of_gsm8k
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
output_type: generate_until
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
num_fewshot: 0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    regexes_to_ignore: [",", "(?s).*#### "]
generation_kwargs:
  until: {stops}
  do_sample: true
  temperature: 1.0
  max_gen_toks: 128
filter_list:
  - name: flexible-extract
    filter:
      - {{function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{{2,}})|(-?[0-9]+)"}}
      - {{function: take_first}}
"""


@dataclass(frozen=True)
class Evaluated:
    """What the harness wrote, and what the node kept."""

    said: str  # standard output and error of the harness
    results: dict[str, Any]
    samples: list[dict[str, Any]]
    receipts: list[bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("models") / MODEL)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the task and its ten questions."""
    place = tmp_path_factory.mktemp("task")
    lines = (Path(os.environ["GRAIL_DATA_DIR"]) / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    (place / "ten.jsonl").write_text("\n".join(lines[:QUESTIONS]) + "\n", encoding="utf-8")
    (place / "ten_of_gsm8k.yaml").write_text(TASK.format(data=place / "ten.jsonl", stops=json.dumps(STOPS)))
    return place


@contextmanager
def serving(folder: Path, scratch: Path) -> Iterator[str]:
    """The address of `grail-miner serve`, a process of its own."""
    environment = {**os.environ, "GRAIL_STATE_DIR": str(scratch / "state"), "NO_COLOR": "1"}
    code = "import sys; sys.argv[0] = 'grail-miner'; from grail_miner.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as node:
        try:
            told = (re.search(r" serving .*address=(http://[0-9.:]+)", line) for line in node.stderr or ())
            yield next(found[1] for found in told if found)
        finally:
            node.terminate()
            node.wait(PATIENCE_S)


def evaluated(kind: str, route: str, folder: Path, task: Path, scratch: Path, *more: str) -> Evaluated:
    """One run of the command line, of which every request is answered."""
    with serving(folder, scratch) as url:
        ended = harness(kind, f"{url}/v1/{route}", task, scratch, *more)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said[-4000:]
    (results,) = (scratch / "out").rglob("results_*.json")
    (samples,) = (scratch / "out").rglob("samples_*.jsonl")
    kept = [path.read_bytes() for path in sorted((scratch / "state").rglob("receipts/*.json"))]
    read = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return Evaluated(said, json.loads(results.read_text()), read, kept)


def harness(kind: str, url: str, task: Path, scratch: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command line without a network, four requests at a time."""
    hub = {"HF_HOME": str(scratch / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    asked = f"model={MODEL},base_url={url},tokenizer_backend=none,num_concurrent=4,max_retries=1"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", kind, "--model_args", asked, "--tasks", "ten_of_gsm8k"]
    command += ["--include_path", str(task), "--output_path", str(scratch / "out"), "--log_samples", *more]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **hub})


@pytest.mark.parametrize(
    ("kind", "route", "more"),
    [
        ("local-completions", "completions", ()),
        ("local-chat-completions", "chat/completions", ("--apply_chat_template",)),
    ],
)
def test_ten_questions_are_answered_graded_and_each_answer_is_proved(
    kind: str, route: str, more: tuple[str, ...], folder: Path, task: Path, tmp_path: Path
) -> None:
    done = evaluated(kind, route, folder, task, tmp_path, *more)
    assert "API request failed" not in done.said, "the harness says so of any status that is not 200"
    assert len(done.samples) == len(done.receipts) == QUESTIONS
    graded = done.results["results"]["ten_of_gsm8k"]
    assert graded["sample_len"] == QUESTIONS
    assert 0 <= graded["exact_match,flexible-extract"] <= 1
    reports = [checked(raw, folder) for raw in done.receipts]
    assert [report.outcome for report in reports] == [Outcome.ACCEPT] * QUESTIONS
    assert all(Features.from_bytes(report.receipt.features).stop == tuple(STOPS) for report in reports if report.receipt)
    proved = sorted(text for report in reports for text in report.texts or ())
    assert proved == sorted(sample["resps"][0][0] for sample in done.samples), "what was graded is what was proved"
    assert not any(stop in text for text in proved for stop in STOPS)
    assert "stop text" in {by for report in reports for by in report.ended_by or ()}


def checked(raw: bytes, folder: Path) -> ReceiptReport:
    served = read_served_folder(folder)
    return check_receipt(raw, seed=bytes(32), model=model_at_hand(folder, served.model, served.renderer))


def test_several_prompts_in_one_request_are_refused_and_what_to_set_is_said(folder: Path, task: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path) as url:
        ended = harness("local-completions", f"{url}/v1/completions", task, tmp_path, "--batch_size", "2")
    assert ended.returncode != 0
    assert "batch size 1" in ended.stdout + ended.stderr
