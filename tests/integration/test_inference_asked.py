"""`grail ask` against a real node: the answer, its receipt checked, and a node that answers something else than was asked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.commands.grail import cli
from grail_core.errors import GrailError, StorageError
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_miner.serving.answering import AdmittedOrder, Answering
from tooling.testing.serving_node import RunningNode, answering_of, running_node, save_served_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def answering(folder: Path) -> Answering:
    return answering_of(folder)


@pytest.fixture
def node(answering: Answering, tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(answering, tmp_path / "state") as running:
        yield running


@dataclass(frozen=True)
class Ended:
    """How a command ended: what it printed, and its error."""

    stdout: str
    error: GrailError | None

    @property
    def code(self) -> int:
        return 0 if self.error is None else self.error.exit_code


def ask(node: RunningNode, *arguments: object) -> Ended:
    """The command in this process, which has the model's libraries already."""
    done = CliRunner().invoke(cli, ["ask", *map(str, arguments), "--node", node.url, "--json", "--max-tokens", "16"])
    error = done.exception
    if error is not None and not isinstance(error, GrailError):
        raise error
    return Ended(done.stdout, error)


def test_the_answer_comes_with_a_receipt_that_is_kept_and_accepted(node: RunningNode, folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "receipt.json"
    ended = ask(node, "What is 2 + 2?", "--model", folder, "--receipt", kept, "--choices", 2, "--system", "Be short.")
    assert ended.code == 0, ended.error
    said = json.loads(ended.stdout)
    assert said["receipt"]["outcome"] == "accept"
    assert said["texts"] == said["receipt"]["texts"]
    receipt = Receipt.from_bytes(kept.read_bytes())
    asked = Features.from_bytes(receipt.features)
    assert [message.content for message in asked.messages or ()] == ["Be short.", "What is 2 + 2?"]


def test_a_text_is_gone_on_with_and_a_seed_gives_the_same_answer_twice(node: RunningNode, folder: Path) -> None:
    once, again, other = (
        json.loads(ask(node, "Once upon a time", "--complete", "--model", folder, *more).stdout)
        for more in (["--seed", 7], ["--seed", 7], [])
    )
    assert once["texts"] == again["texts"]
    assert other["texts"] != once["texts"]


def test_without_the_model_the_answer_is_given_and_what_was_not_checked_is_said(node: RunningNode) -> None:
    ended = ask(node, "What is 2 + 2?")
    assert ended.code == 0, ended.error
    assert json.loads(ended.stdout)["receipt"]["outcome"] == "inconclusive"


def test_an_answer_to_another_question_is_refused_however_well_it_is_proved(
    answering: Answering, folder: Path, tmp_path: Path
) -> None:
    """The node swaps the question for one that it likes better, and proves its answer to that."""

    def dishonest(batch: list[AdmittedOrder]) -> list[Receipt]:
        return answering.answer([_asking_otherwise(answering, one) for one in batch])

    with running_node(answering, tmp_path / "state", answer=dishonest) as node:  # type: ignore[arg-type]
        ended = ask(node, "What is 2 + 2?", "--model", folder)
    assert ended.code == 13, ended.stdout
    assert "another question" in ended.stdout


def _asking_otherwise(answering: Answering, one: AdmittedOrder) -> AdmittedOrder:
    order = answering.unsigned(Features(prompt="Something easier"), one.policy, one.choices, 0)
    return replace(answering.admit(order, one.policy, now_s=0), logprobs=one.logprobs)


def test_no_node_is_one_clear_error(tmp_path: Path) -> None:
    program = "from grail_core.commands.grail import main; main()"
    command = [sys.executable, "-c", program, "ask", "Hello", "--node", "http://127.0.0.1:9"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 5
    assert "does not answer" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("kind", ["compressed", "endless", "redirect", "no JSON"])
def test_a_node_that_is_none_is_one_clear_error_and_nothing_is_unpacked(kind: str) -> None:
    """What it would unpack to is never made: the body is refused by its header, or where it is too long."""

    class Hostile(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if kind == "redirect" else 200)
            for name, value in HEADERS[kind].items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for _ in range(BODIES[kind]):
                    self.wfile.write(b"[" * 65_536)
            except (BrokenPipeError, ConnectionResetError):  # the client has had enough: what is being tested
                return

        def log_message(self, format: str, *arguments: object) -> None:
            """A test is silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            done = CliRunner().invoke(cli, ["ask", "Hello", "--node", f"http://127.0.0.1:{server.server_port}"])
        finally:
            server.shutdown()
            thread.join()
    assert isinstance(done.exception, StorageError)
    assert WORDS[kind] in done.exception.what


HEADERS: dict[str, dict[str, str]] = {
    "compressed": {"content-encoding": "gzip"},
    "endless": {},
    "redirect": {"location": "http://127.0.0.1:9/"},
    "no JSON": {},
}
BODIES = {"compressed": 1, "endless": 300, "redirect": 0, "no JSON": 1}
WORDS = {"compressed": "compressed", "endless": "more than", "redirect": "refuses (302)", "no JSON": "cannot be read"}
