"""`grail ask` against a real node: the answer, its receipt checked, and a node that answers something else than was asked."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.checkpoints.served_model import read_served_folder
from grail_core.commands.grail import cli
from grail_core.errors import ConfigurationError, GrailError, StorageError
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_core.inference.seeds import seeds_of
from grail_core.inference.signatures import command_message
from grail_core.inference.typed_data import order_digest
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.network import NETWORKS
from grail_core.verification.receipt import NO_CHAIN
from grail_miner.serving.answering import AdmittedOrder, ServedNetwork
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.keys import ALICE, BOB
from tooling.testing.scripted_server import Answer, ScriptedServer
from tooling.testing.serving_node import MODEL, NETWORK, RunningNode, answering_of, running_node, save_served_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def answering(folder: Path) -> ClosedAnswers:
    return answering_of(folder)


@pytest.fixture
def node(answering: ClosedAnswers, tmp_path: Path) -> Iterator[RunningNode]:
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


def test_an_answer_ends_before_its_stop_text_and_its_receipt_says_that_one_ended_it(node: RunningNode, folder: Path) -> None:
    asked = ("Once upon a time", "--complete", "--model", folder, "--choices", 16, "--seed", 1, "--stop", "a", "--stop", "e")
    ended = ask(node, *asked)
    assert ended.code == 0, ended.error
    said = json.loads(ended.stdout)
    assert said["texts"] == said["receipt"]["texts"]
    assert not any("a" in text or "e" in text for text in said["texts"])
    assert "stop text" in said["receipt"]["ended_by"]
    assert said["receipt"]["asked"]["stop"] == ["a", "e"]


def test_more_stop_texts_than_a_question_may_have_are_refused_before_it_is_asked(node: RunningNode) -> None:
    ended = ask(node, "Hello", *(part for text in "abcde" for part in ("--stop", text)))
    assert isinstance(ended.error, ConfigurationError)
    assert "stop" in ended.error.what


def test_without_the_model_the_answer_is_given_and_what_was_not_checked_is_said(node: RunningNode) -> None:
    ended = ask(node, "What is 2 + 2?")
    assert ended.code == 0, ended.error
    assert json.loads(ended.stdout)["receipt"]["outcome"] == "inconclusive"


def test_an_answer_to_another_question_is_refused_however_well_it_is_proved(
    answering: ClosedAnswers, folder: Path, tmp_path: Path
) -> None:
    """The node swaps the question for one that it likes better, and proves its answer to that."""
    with running_node(Dishonest(folder, _asking_otherwise), tmp_path / "state") as node:
        ended = ask(node, "What is 2 + 2?", "--model", folder)
    assert ended.code == 13, ended.stdout
    assert "another question" in ended.stdout


class Dishonest(ClosedAnswers):
    """Answers another order than it was given."""

    def __init__(self, folder: Path, otherwise: Callable[[ClosedAnswers, AdmittedOrder], AdmittedOrder]) -> None:
        super().__init__(read_served_folder(folder), PolicyModel.load(folder), NETWORK, ALICE, name=MODEL)
        self._otherwise = otherwise

    def receipt(self, one: AdmittedOrder, completions: Sequence[tuple[int, ...]], proofs: Sequence[RolloutProof]) -> Receipt:
        other = self._otherwise(self, one)
        (drawn,) = self.draw([other])
        return super().receipt(other, drawn, self.proofs(other, drawn))


def _asking_otherwise(answering: ClosedAnswers, one: AdmittedOrder) -> AdmittedOrder:
    order = answering.unsigned(Features(prompt="Something easier"), one.policy, one.choices, 0)
    return replace(answering.admit(order, one.policy, now_s=0), logprobs=one.logprobs)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ((), 13, "it is of the network 'localnet', not of 'subnet-81'"),
        (("--network", "localnet"), 13, "in the thinking mode 'instructed', not in 'none'"),
        (("--network", "localnet", "--thinking", "instructed"), 0, "ok"),
    ],
)
def test_a_node_cannot_draw_again_under_another_network_or_thinking_mode(
    asked: tuple[str, ...], code: int, said: str, folder: Path, tmp_path: Path
) -> None:
    served = read_served_folder(folder, thinking_mode="instructed")
    network = ServedNetwork(NETWORKS["localnet"], NO_CHAIN)
    other = ClosedAnswers(served, PolicyModel.load(folder), network, ALICE, name=MODEL)
    with running_node(other, tmp_path / "state") as node:
        ended = ask(node, "What is 2 + 2?", "--complete", "--model", folder, "--seed", 7, *asked)
    assert ended.code == code, ended.stdout
    assert said in ended.stdout or code == 0


def test_a_receipt_that_was_not_looked_at_is_no_success_whoever_asks_without_the_model(folder: Path, tmp_path: Path) -> None:
    """A chain that the node made up: nothing of it can be checked, and the key that was named is not even its signer's."""
    chain = ServedNetwork(NETWORKS["subnet-81"], bytes([7]) * 32)
    other = ClosedAnswers(read_served_folder(folder), PolicyModel.load(folder), chain, ALICE, name=MODEL)
    with running_node(other, tmp_path / "state") as node:
        assert ask(node, "What is 2 + 2?", "--key", BOB.ss58).code == 13
        assert ask(node, "What is 2 + 2?", "--key", ALICE.ss58).code == 15
        assert ask(node, "What is 2 + 2?", "--key", ALICE.ss58, "--genesis", "07" * 32).code == 0
        assert ask(node, "What is 2 + 2?", "--require", "calibrated").code == 14


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


def test_a_node_with_another_key_than_the_one_that_is_known_is_refused(node: RunningNode, folder: Path) -> None:
    assert ask(node, "What is 2 + 2?", "--model", folder, "--key", ALICE.ss58).code == 0
    for key in (BOB.ss58, BOB.hotkey.hex()):
        ended = ask(node, "What is 2 + 2?", "--model", folder, "--key", key)
        assert (ended.code, "not of the one" in ended.stdout) == (13, True)


def test_what_is_required_of_the_receipt_and_not_there_is_unproven(node: RunningNode, folder: Path) -> None:
    assert ask(node, "What is 2 + 2?", "--model", folder, "--require", "calibrated").code == 0
    assert ask(node, "What is 2 + 2?", "--model", folder, "--require", "order").code == 14


def _of_its_own_nonce(answering: ClosedAnswers, one: AdmittedOrder) -> AdmittedOrder:
    """The same question under the nonce whose draw the node likes best."""
    order = replace(one.order, nonce=11)
    seeds = seeds_of(
        answering.network.id,
        domain=answering.domain,
        order=order,
        interval=1,
        salt=one.salt,
        features=one.features,
        model_digest=answering.container_id,
        node=answering.node,
    )
    return replace(one, order=order, seeds=seeds)


def _of_its_own_order(answering: ClosedAnswers, one: AdmittedOrder) -> AdmittedOrder:
    """An order that another key of the node signs, with gas for one token."""
    sub = replace(one.order.subscription, owner=BOB.hotkey, max_gas_limit=64 + len(one.prompt) + 8 * one.choices)
    order = replace(one.order, subscription=sub)
    signature = BOB.sign(command_message(answering.network.id, order_digest(answering.domain, order)))
    return answering.admit(replace(order, signature=signature), one.policy, now_s=0)


@pytest.mark.parametrize("otherwise", [_of_its_own_nonce, _of_its_own_order])
def test_an_order_that_the_node_wrote_is_refused_however_well_its_answer_is_proved(
    otherwise: Callable[[ClosedAnswers, AdmittedOrder], AdmittedOrder], answering: ClosedAnswers, folder: Path, tmp_path: Path
) -> None:
    with running_node(Dishonest(folder, otherwise), tmp_path / "state") as node:
        ended = ask(node, "What is 2 + 2?", "--model", folder)
    assert ended.code == 13, ended.stdout


def test_a_node_that_drips_holds_nobody_longer_than_was_said() -> None:
    """A byte now and then, for ever, in the header and in the body: each read ends in time, the answer never does."""
    released = threading.Event()

    def drip(listener: socket.socket, start: bytes) -> None:
        connected, _ = listener.accept()
        with connected:
            connected.sendall(start)
            while not released.wait(0.05):
                try:
                    connected.sendall(b"a")
                except OSError:
                    return

    for start in (b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=drip, args=(listener, start))
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            done = CliRunner().invoke(cli, ["ask", "Hello", "--node", url, "--timeout", "1"])
            released.set()
            thread.join()
            released.clear()
        assert isinstance(done.exception, StorageError)
        assert "within 1 s" in done.exception.what


@pytest.mark.parametrize(
    "url", ["http://me:sw0rdfish@{}", "http://{}?key=sw0rdfish", "http://me:sw0/rdfish@{}", "sw0rdfish@{}"]
)
def test_no_error_shows_what_gives_access_to_a_node(url: str) -> None:
    with ScriptedServer(Answer(503, b"no")) as server:
        asked = url.format(server.url.removeprefix("http://"))
        done = CliRunner().invoke(cli, ["ask", "Hello", "--node", asked, "--json"])
    assert isinstance(done.exception, GrailError)
    told = f"{done.output}{done.exception}"
    assert "rdfish" not in told
    assert "sw0" not in told
