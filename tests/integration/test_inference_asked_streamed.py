"""`grail ask` as its answer comes: what is printed piece by piece is held against the receipt, and a stream against rules."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from grail_core.commands.grail import cli
from grail_core.commands.node_client import AskedNode, Question, ask_node
from grail_core.errors import ConfigurationError, GrailError, StorageError
from grail_core.inference.receipts import Receipt
from grail_core.text import PrintableStream, printable_lines
from grail_miner.serving.clients import Clients, hash_of
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.serving_node import RunningNode, answering_of, running_node, save_served_model

ASKED = ("Once upon a time", "--complete", "--max-tokens", "16", "--seed", "7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def answering(folder: Path) -> ClosedAnswers:
    return answering_of(folder)


@pytest.fixture(scope="module")
def node(answering: ClosedAnswers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(answering, tmp_path_factory.mktemp("state")) as running:
        yield running


def ask(url: str, *arguments: object, env: dict[str, str] | None = None) -> Result:
    done = CliRunner().invoke(cli, ["ask", *map(str, arguments), "--node", url], env=env)
    if done.exception is not None and not isinstance(done.exception, GrailError | SystemExit):
        raise done.exception
    return done


def test_text_comes_in_pieces_that_are_the_receipts_text_and_it_is_accepted(node: RunningNode, folder: Path) -> None:
    pieces: list[str] = []
    question = Question("Once upon a time", None, True, 16, 1.0, 1.0, 1, 7)
    asked = ask_node(AskedNode(node.url, 60), question, pieces.append)
    assert len(pieces) > 1
    assert asked.texts == ("".join(pieces),)
    assert asked.texts == ask_node(AskedNode(node.url, 60), question).texts
    done = ask(node.url, *ASKED, "--model", folder)
    assert (done.exit_code, "receipt: ACCEPTED" in done.stderr) == (0, True), done.stderr
    whole = ask(node.url, *ASKED, "--model", folder, "--no-stream")
    assert done.stdout == whole.stdout == printable_lines(asked.texts[0]) + "\n\n"


def test_a_chat_is_streamed_too(node: RunningNode, folder: Path) -> None:
    done = ask(node.url, "What is 2 + 2?", "--max-tokens", 8, "--model", folder)
    assert (done.exit_code, "receipt: ACCEPTED" in done.stderr) == (0, True), done.stderr


def test_what_was_printed_and_is_not_the_receipts_text_is_rejected(node: RunningNode, folder: Path) -> None:
    """A relay shows other words than those that the node proved."""
    with relayed(node, lambda line: line.replace(b'"text": "', b'"text": "Buy! ')) as url:
        done = ask(url, *ASKED, "--model", folder)
    assert done.stdout.startswith("Buy! ")
    assert isinstance(done.exception, GrailError)
    assert done.exception.exit_code == 13
    assert "question: the text that was sent is not that of the receipt's tokens" in done.exception.what


@contextmanager
def relayed(node: RunningNode, altered: Callable[[bytes], bytes]) -> Iterator[str]:
    class Relay(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on(node.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._pass_on(node.post(self.path, body))

        def _pass_on(self, answer: httpx.Response) -> None:
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers["content-type"])
            self.end_headers()
            streamed = "event-stream" in answer.headers["content-type"]
            self.wfile.write(altered(answer.content) if streamed else answer.content)

        def log_message(self, format: str, *arguments: object) -> None:
            """A test is silent."""

    with served(Relay) as url:
        yield url


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def chunk(text: str, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


LAST = chunk("", "stop", grail={"answer_digest": "0" * 64, "receipt_token": "0" * 64})
DONE = b"data: [DONE]\n\n"
STREAMS = {
    "one line without an end": (b"data: " + b"a" * 3_000_000, "a line of the node's stream has more than"),
    "comments for ever": (b": waiting\n\n" * 1_600_000, "the node sends more than"),
    "broken off": (chunk("Half"), "broke off"),
    "ended without its receipt": (chunk("Half") + DONE, "without a chunk that finishes"),
    "an error": (
        chunk("Half") + b'data: {"error": {"message": "out of memory"}}\n\n',
        "failed while it answered: out of memory",
    ),
    "text behind its end": (chunk("Half") + LAST + chunk("lo") + DONE, "a choice that is finished"),
    "a line that is nothing": (chunk("Half") + b"event: more\n\n", "neither a comment nor one line of data"),
    "two lines of data": (b"data: {}\ndata: {}\n\n", "neither a comment nor one line of data"),
    "no JSON": (b"data: {\n\n", "cannot be read"),
    "not a number": (chunk("Half").replace(b"0", b"NaN"), "cannot be read"),
    "two choices": (chunk("Half").replace(b'"index": 0', b'"index": 1'), "cannot be read"),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_is_none_ends_with_one_clear_error(kind: str) -> None:
    body, said = STREAMS[kind]

    class Hostile(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send("application/json", b'{"data": [{"id": "tiny"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._send("text/event-stream", body)

        def _send(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.end_headers()
            try:
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):  # the client has had enough: what is being tested
                return

        def log_message(self, format: str, *arguments: object) -> None:
            """A test is silent."""

    with served(Hostile) as url:
        done = ask(url, *ASKED)
    assert isinstance(done.exception, StorageError)
    assert said in done.exception.what
    assert done.stdout == ("Half\n" if body.startswith(chunk("Half")) else "")


def test_a_stream_that_never_ends_holds_nobody_longer_than_was_said() -> None:
    """Text comes all the time, and what came is printed; the answer has its time in all."""
    released = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._begin("application/json")
            self.wfile.write(b'{"data": [{"id": "tiny"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._begin("text/event-stream")
            while not released.wait(0.02):
                try:
                    self.wfile.write(chunk("la"))
                except OSError:
                    return

        def _begin(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """A test is silent."""

    with served(Endless) as url:
        done = ask(url, *ASKED, "--timeout", 1)
        released.set()
    assert isinstance(done.exception, StorageError)
    assert "within 1 s" in done.exception.what
    assert done.stdout.startswith("la")


def test_a_stream_is_shown_as_the_whole_would_be_however_it_is_cut() -> None:
    """Escapes, and accents that are piled up one by one."""
    text = "a\x1b[2Jb\u202ec" + "e" + "\u0301" * 6 + "\n" + "x" * 40
    for size in (1, 2, 3, 7):
        for most in (1_000, 80):
            shown = PrintableStream(most)
            pieces = "".join(shown.add(text[start : start + size]) for start in range(0, len(text), size))
            whole = printable_lines(text, 10_000)
            assert pieces == (whole if len(whole) <= most else whole[:most] + "…")


def test_a_client_of_a_node_elsewhere_shows_its_token(answering: ClosedAnswers, tmp_path: Path) -> None:
    token, file, clients = "a" * 43, tmp_path / "token", tmp_path / "clients.toml"
    file.write_text(token + "\n")
    clients.write_text(f'loopback = false\n[clients.alice]\nhash = "{hash_of(token).hex()}"\n')
    clients.chmod(0o600)
    with running_node(answering, tmp_path / "state", clients=Clients(clients)) as node:
        assert ask(node.url, *ASKED, "--token-file", file).exit_code == 0
        assert ask(node.url, *ASKED, env={"GRAIL_NODE_TOKEN": token}).exit_code == 0
        refused = ask(node.url, *ASKED)
    assert isinstance(refused.exception, StorageError)
    assert (refused.exception.what.startswith("the node refuses (401)"), "--token-file" in refused.exception.hint) == (
        True,
        True,
    )


@pytest.mark.parametrize("text", ["", "two words", "a" * 5_000, "ä"])
def test_what_is_no_token_is_refused_and_not_repeated(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    done = ask("http://127.0.0.1:9", "Hello", "--token-file", file)
    assert isinstance(done.exception, ConfigurationError)
    assert not text or text not in str(done.exception)


def test_a_receipts_file_is_new_and_in_a_folder_that_exists_or_nothing_is_asked(node: RunningNode, tmp_path: Path) -> None:
    there, nowhere = tmp_path / "receipt.json", tmp_path / "none" / "receipt.json"
    there.write_text("mine")
    for file in (there, nowhere):
        done = ask("http://127.0.0.1:9", *ASKED, "--receipt", file)
        assert isinstance(done.exception, ConfigurationError)
    assert (there.read_text(), nowhere.parent.exists()) == ("mine", False)
    assert ask(node.url, *ASKED, "--receipt", there, "--force").exit_code == 0
    assert Receipt.from_bytes(there.read_bytes()).answer.lengths
