"""`grail verify` in a process of its own whose sockets are disabled: a hundred honest receipts, and one lie of each kind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.commands.grail import cli
from grail_core.environment import Message
from grail_core.errors import GrailError
from grail_core.inference.answers import Choice
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Signature
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.keys import EVE
from tooling.testing.models.tiny_qwen2 import BYTES, END_TOKEN_ID, save_byte_model
from tooling.testing.serving_node import answering_of, save_served_model

NOW = 1_700_000_000

OFFLINE = """
import socket, sys
def refuse(*_, **__): raise AssertionError("a socket was asked for")
socket.socket.connect = socket.socket.bind = socket.create_connection = socket.getaddrinfo = refuse
from grail_core.commands.grail import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def node(folder: Path) -> ClosedAnswers:
    return answering_of(folder)


def receipts(node: ClosedAnswers, count: int, tokens: int = 24) -> list[Receipt]:
    """Honest ones of as many questions: chats and texts, one to three choices, several policies."""
    orders = []
    for number in range(count):
        features = Features(prompt=f"Text {number}") if number % 4 == 3 else Features((Message("user", f"Question {number}"),))
        policy = GenerationPolicy(tokens, (1.0, 0.7)[number % 2], (1.0, 0.95, 1.0)[number % 3], (-1, -1, 20)[number % 3])
        order = node.unsigned(features, policy, 1 + number % 3, number)
        orders.append(node.admit(order, policy, now_s=NOW, logprobs=number % 5 == 0))
    return node.answer(orders)


def verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", OFFLINE, "verify", *map(str, arguments), "--json"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@dataclass(frozen=True)
class Ended:
    """How a command ended: what it printed, and its error's exit code and words."""

    stdout: str
    code: int
    what: str


def verify_here(*arguments: object) -> Ended:
    """The command in this process, which has the model's libraries already."""
    done = CliRunner().invoke(cli, ["verify", *map(str, arguments), "--json"])
    error = done.exception
    if error is not None and not isinstance(error, GrailError):
        raise error
    return Ended(done.stdout, 0 if error is None else error.exit_code, "" if error is None else error.what)


def test_a_hundred_receipts_are_accepted_by_a_fresh_process_without_a_network(
    node: ClosedAnswers, folder: Path, tmp_path: Path
) -> None:
    files = []
    for number, receipt in enumerate(receipts(node, 100)):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_bytes(receipt.to_bytes())
    ended = verify(*files, "--model", folder)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    said = json.loads(ended.stdout)
    assert [one["outcome"] for one in said["receipts"]] == ["accept"] * 100


def _with_choice(receipt: Receipt, **changed: object) -> Receipt:
    first = replace(receipt.answer.choices[0], **changed)  # type: ignore[arg-type]
    return replace(receipt, answer=replace(receipt.answer, choices=(first, *receipt.answer.choices[1:])))


def _token(receipt: Receipt) -> Receipt:
    tokens = receipt.answer.choices[0].completion
    return _with_choice(receipt, completion=((tokens[0] + 1) % END_TOKEN_ID, *tokens[1:]))


def _sketch(receipt: Receipt) -> Receipt:
    sketches = bytearray(receipt.answer.choices[0].sketches)
    sketches[1::2] = bytes(byte ^ 0x10 for byte in sketches[1::2])  # by about one standard deviation each
    return _with_choice(receipt, sketches=bytes(sketches))


LIES: dict[str, tuple[Callable[[Receipt], Receipt], bool, int, str]] = {
    "a changed token": (_token, False, 13, "node"),
    "a changed token, signed anew": (_token, True, 14, "proof"),
    "changed sketches, signed anew": (_sketch, True, 13, "proof"),
    "another node": (lambda one: replace(one, node=EVE.hotkey), False, 13, "order"),
    "another policy": (lambda one: replace(one, policy=replace(one.policy, temperature=0.5)), True, 13, "order"),
    "another signature": (lambda one: replace(one, signature=Signature(bytes(63) + b"\x80")), False, 13, "node"),
    "more gas": (lambda one: replace(one, gas_used=one.gas_used + 1), True, 13, "gas"),
}
"""What is changed of an honest receipt, whether the node signs it again, and the exit code and check that follow."""


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_its_check_and_exit_code(lie: str, node: ClosedAnswers, folder: Path, tmp_path: Path) -> None:
    change, anew, code, check = LIES[lie]
    (honest,) = receipts(node, 1)
    changed = change(honest)
    file = tmp_path / "receipt.json"
    file.write_bytes((node.sign(changed) if anew else changed).to_bytes())
    ended = verify_here(file, "--model", folder)
    assert (ended.code, ended.what.partition("(")[2].partition(":")[0]) == (code, check), ended.stdout[-3000:]


def test_another_model_folder_is_refused_whatever_the_receipt_says(node: ClosedAnswers, tmp_path: Path) -> None:
    other = save_byte_model(tmp_path / "other", replace(BYTES, end=END_TOKEN_ID), seed=4)
    file = tmp_path / "receipt.json"
    file.write_bytes(receipts(node, 1)[0].to_bytes())
    ended = verify_here(file, "--model", other)
    assert (ended.code, "weights_root" in ended.stdout) == (13, True)


def test_without_the_model_the_rest_is_checked_and_what_is_missing_is_said(node: ClosedAnswers, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_bytes(receipts(node, 1)[0].to_bytes())
    ended = verify(file)
    said = json.loads(ended.stdout)["receipts"][0]
    assert ended.returncode == 15
    missing = {one["check"] for one in said["findings"] if one["outcome"] == "inconclusive"}
    assert missing == {"model", "prompt", "proof", "logprob", "sampling"}


def test_with_stop_texts_and_without_the_model_where_an_answer_ends_is_not_known(
    node: ClosedAnswers, folder: Path, tmp_path: Path
) -> None:
    policy = GenerationPolicy(400)
    order = node.unsigned(Features(prompt="Text", stop=("a", "e", "i")), policy, 4, 0)
    (receipt,) = node.answer([node.admit(order, policy, now_s=NOW)])
    file = tmp_path / "receipt.json"
    file.write_bytes(receipt.to_bytes())
    without = json.loads(verify_here(file).stdout)["receipts"][0]
    (finding,) = [one for one in without["findings"] if one["check"] == "termination"]
    assert (finding["outcome"], "tokenizer" in finding["detail"]) == ("inconclusive", True)
    whole = json.loads(verify_here(file, "--model", folder).stdout)["receipts"][0]
    assert whole["outcome"] == "accept"
    assert "stop text" in whole["ended_by"]
    assert not any(stop in text for text in whole["texts"] for stop in "aei")
    printed = CliRunner().invoke(cli, ["verify", str(file), "--model", str(folder)]).stdout
    assert "a stop text ended it" in printed
    assert 'stop texts ["a", "e", "i"]' in printed


def test_what_is_required_and_not_there_is_unproven(node: ClosedAnswers, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_bytes(receipts(node, 1)[0].to_bytes())
    assert verify_here(file, "--model", folder, "--require", "calibrated").code == 0
    for missing in ("order", "coordinator", "order,calibrated"):
        assert verify_here(file, "--model", folder, "--require", missing).code == 14


def test_a_choice_without_its_sketches_is_no_receipt(node: ClosedAnswers, tmp_path: Path) -> None:
    (honest,) = receipts(node, 1)
    raw = json.loads(honest.to_bytes())
    raw["answer"]["choices"][0]["sketches"] = ""
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(raw))
    ended = verify(file)
    assert (ended.returncode, "sketches" in ended.stderr) == (13, True)
    with pytest.raises(ValueError, match="sketches"):
        replace(honest.answer, choices=(Choice((1, 2), b"", None),))
