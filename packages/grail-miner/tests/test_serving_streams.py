"""Streams: what client libraries read of them, that they are the receipt's text, and who may hold one open."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.checkpoints.served_model import read_served_folder
from grail_core.errors import MachineFaultError
from grail_core.inference.receipts import Receipt
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.batch import RolloutProof
from grail_core.proof.errors import UnprovableError
from grail_core.protocol.findings import Outcome
from grail_core.verification.receipt import check_receipt
from grail_core.verification.receipt_model import model_at_hand
from grail_miner.serving.app import application
from grail_miner.serving.clients import OPERATOR
from grail_miner.serving.models import HfModels, ToProve
from grail_miner.serving.streamed import StreamedResponse
from grail_miner.serving.text_stream import TextStream
from tooling.testing.gated_models import GatedModels
from tooling.testing.serving_node import MODEL, RunningNode, answering_of, running_node, until

ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 24}


def receipt_of(node: RunningNode, grail: dict[str, str]) -> bytes:
    return node.get(f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}").content


def test_a_streamed_conversation_is_the_text_of_its_receipt_which_comes_with_the_last_choices_end(
    node: RunningNode, client: openai.OpenAI, folder: Path
) -> None:
    texts = {0: "", 1: ""}
    ended: list[tuple[int, str]] = []
    grails: list[Any] = []
    stream: Any = client.chat.completions.create(**CHAT, n=2, stream=True, seed=5)
    chunks = list(stream)
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    for chunk in chunks:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason is not None:
            ended.append((choice.index, choice.finish_reason))
            grails.append(getattr(chunk, "grail", None))
    assert [index for index, _ in ended] == [0, 1]
    assert grails[0] is None
    served = read_served_folder(folder)
    at_hand = model_at_hand(folder, served.model, served.renderer)
    report = check_receipt(receipt_of(node, grails[1]), seed=bytes(32), model=at_hand)
    assert report.outcome is Outcome.ACCEPT, report.decisive
    assert report.texts == (texts[0], texts[1])
    assert len({chunk.id for chunk in chunks}) == 1
    whole: Any = client.chat.completions.create(**CHAT, n=2, seed=5)
    assert [choice.message.content for choice in whole.choices] == [texts[0], texts[1]]
    assert whole.grail["answer_digest"] == grails[1]["answer_digest"]


def test_a_streamed_completion_with_usage_ends_with_a_chunk_without_choices(node: RunningNode, client: openai.OpenAI) -> None:
    stream: Any = client.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}, logprobs=0)
    *chunks, last = list(stream)
    assert (last.choices, last.usage.completion_tokens) == ([], 24)
    assert all(chunk.usage is None for chunk in chunks)
    receipt = Receipt.from_bytes(receipt_of(node, chunks[-1].grail))
    assert len(chunks[-1].choices[0].logprobs.token_logprobs) == len(receipt.answer.choices[0].completion)
    without: Any = client.completions.create(**ASKED, stream=True)
    assert all(chunk.choices for chunk in without)


def test_a_stream_ends_before_its_stop_text_as_the_whole_answer_does(node: RunningNode, client: openai.OpenAI) -> None:
    texts = []
    for seed in range(12):
        asked = {**ASKED, "max_tokens": 60, "seed": seed, "stop": ["a", "e", "\n", "1"]}
        whole: Any = client.completions.create(**asked)
        stream: Any = client.completions.create(**asked, stream=True)
        chunks = list(stream)
        texts.append("".join(chunk.choices[0].text for chunk in chunks))
        assert texts[-1] == whole.choices[0].text
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        one, other = (Receipt.from_bytes(receipt_of(node, grail)) for grail in (chunks[-1].grail, whole.grail))
        assert [choice.completion for choice in one.answer.choices] == [choice.completion for choice in other.answer.choices]
    assert not any(stop in text for text in texts for stop in ("a", "e", "\n", "1"))
    assert len({len(text) for text in texts}) > 3


def test_text_comes_before_the_answer_is_whole(node: RunningNode) -> None:
    with httpx.stream("POST", node.url + "/v1/completions", json={**ASKED, "max_tokens": 900, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        first = next(line for line in response.iter_lines() if line.startswith("data: "))
        assert json.loads(first.removeprefix("data: "))["choices"][0]["text"]
        assert node.node.scheduler.running == 1  # and with the connection it ends
    until(lambda: node.node.scheduler.running == 0)


def test_what_is_refused_is_refused_with_a_status_before_the_stream_begins(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(**{**ASKED, "prompt": "x" * 1_030}, stream=True)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(**{**ASKED, "model": "another"}, stream=True)


class Unprovable(HfModels):
    def prove(self, job: ToProve) -> list[RolloutProof]:
        raise UnprovableError("a hidden state is zero")


class Failing(HfModels):
    def prove(self, job: ToProve) -> list[RolloutProof]:
        raise MachineFaultError("no memory is left")


def collect(stream: Any, chunks: list[Any]) -> None:
    """What comes before an error counts too."""
    for chunk in stream:
        chunks.append(chunk)


@pytest.mark.parametrize(("models", "code"), [(Unprovable, "unprovable"), (Failing, "machine_fault")])
def test_a_stream_whose_proof_fails_ends_with_an_error_and_no_finish(
    folder: Path, tmp_path: Path, models: type[HfModels], code: str
) -> None:
    with running_node(answering_of(folder), tmp_path, models=models()) as node:
        with openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0) as client:
            stream: Any = client.completions.create(**ASKED, stream=True)
            chunks: list[Any] = []
            with pytest.raises(openai.APIError) as failed:
                collect(stream, chunks)
        assert failed.value.code == code
        assert chunks
        assert all(choice.finish_reason is None for chunk in chunks for choice in chunk.choices)
        assert "[DONE]" not in node.post("/v1/completions", {**ASKED, "stream": True}).text


# Who reads slowly, or not at all.


def test_who_does_not_read_is_let_go_and_nothing_is_computed_for_it(node: RunningNode) -> None:
    """The real thing: a connection whose client never reads fills its buffers; others are answered meanwhile."""
    asked = {**ASKED, "max_tokens": 900, "n": 16, "stream": True}
    with node.connection() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connected.sendall(node.request_bytes("/v1/completions", asked))
        until(lambda: node.node.scheduler.running >= 1)
        assert node.post("/v1/completions", ASKED).status_code == 200
    until(lambda: node.node.scheduler.running == 0)


def test_a_stream_that_ends_before_its_first_byte_is_computed_for_nobody(folder: Path, tmp_path: Path) -> None:
    """Behind another answer on its connection, which nobody reads, not even its head is taken before its client goes."""
    models = GatedModels()
    with running_node(answering_of(folder), tmp_path, models=models) as node:

        async def taken_by_nobody(message: Any) -> None:
            await asyncio.Event().wait()

        async def ask() -> None:
            body = json.dumps({**ASKED, "stream": True}).encode()
            messages = iter([{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}])

            async def receive() -> Any:
                return next(messages)

            await application(node.node)(asgi_scope("/v1/completions"), receive, taken_by_nobody)

        asyncio.run(ask())
        models.open.release(100_000)
        until(lambda: node.node.scheduler.pending + node.node.scheduler.running == 0)
        assert node.get("/v1/usage").json()["data"][0]["requests"] == 1


def test_a_receipt_is_sent_in_pieces_and_whole(node: RunningNode) -> None:
    """Whoever does not read holds no more of it than one."""
    kept = bytes(range(256)) * 4_096  # 1 MiB
    token = node.node.receipts.put(bytes(32), kept)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = asgi_scope(f"/v1/receipts/{bytes(32).hex()}", method="GET", query=f"token={token}".encode())
    asyncio.run(application(node.node)(scope, receive, send))
    pieces = [message["body"] for message in sent if "body" in message]
    assert b"".join(pieces) == kept
    assert max(map(len, pieces)) == 64 << 10
    assert (b"content-length", str(len(kept)).encode()) in sent[0]["headers"]


def asgi_scope(path: str, *, method: str = "POST", query: bytes = b"") -> dict[str, Any]:
    """As the edge hands a request on."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "query_string": query,
        "server": ("127.0.0.1", 1),
        "scheme": "http",
        "state": {"client": OPERATOR},
    }


def run_response(response: StreamedResponse, *, takes: int) -> list[bytes]:
    """What a client is sent who takes so many pieces and then no more, without ever going."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        if len(sent) > takes:
            await asyncio.Event().wait()
        sent.append(message.get("body", b"start"))

    async def receive() -> Any:
        await asyncio.Event().wait()

    asyncio.run(response({"type": "http"}, receive, send))
    return sent


def test_a_piece_that_is_not_taken_in_time_ends_the_stream_and_tells_its_maker() -> None:
    closed = []

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"piece"
        finally:
            closed.append(True)

    assert run_response(StreamedResponse(pieces(), slow_seconds=0.01), takes=3) == [b"start", *[b"piece"] * 3]
    assert closed == [True]


def test_a_wait_is_kept_alive_by_comments() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.05)
        yield b"late"

    sent = run_response(StreamedResponse(pieces(), keep_alive=0.01), takes=100)
    assert sent[0] == b"start"
    assert sent[-2:] == [b"late", b""]
    assert set(sent[1:-2]) == {b": waiting\n\n"}


# Text.


@pytest.fixture(scope="module")
def renderer(folder: Path) -> PromptRenderer:
    return read_served_folder(folder).renderer


def streamed(renderer: PromptRenderer, pieces: list[list[int]], **more: Any) -> tuple[list[str], TextStream]:
    stream = TextStream(renderer.decode, **more)
    return [stream.feed(piece) for piece in pieces], stream


def test_a_character_of_several_tokens_goes_out_whole(renderer: PromptRenderer) -> None:
    text = "né 你好 🙂!"
    out, stream = streamed(renderer, [[token] for token in renderer.encode(text)])  # one a byte
    assert [one for one in out if one] == list(text)
    assert stream.rest(text) == ""


def test_bytes_that_are_no_character_go_out_at_the_end(renderer: PromptRenderer) -> None:
    tokens = [*renderer.encode("ab"), *renderer.encode("你")[:2]]
    out, stream = streamed(renderer, [[token] for token in tokens])
    assert "".join(out) == "ab"
    assert stream.rest(renderer.decode(tokens)) == renderer.decode(tokens)[2:]


def test_many_bytes_that_are_no_characters_neither_spoil_what_follows_nor_are_taken_back(renderer: PromptRenderer) -> None:
    tokens = [*[renderer.encode("你")[0]] * 100, *renderer.encode("你!")]
    out, stream = streamed(renderer, [[token] for token in tokens])
    assert "".join(out).endswith("你!")
    assert stream.rest(renderer.decode(tokens)) == ""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 255), max_size=5), max_size=20),
    st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3),
)
def test_what_goes_out_is_the_beginning_of_the_text_whatever_the_tokens(
    renderer: PromptRenderer, pieces: list[list[int]], stops: list[str]
) -> None:
    pieces = [[*renderer.encode("aab\nba")], *pieces, [*renderer.encode("\nab")]]
    whole = renderer.decode([token for piece in pieces for token in piece])
    cut = min([at for at in (whole.find(stop) for stop in stops) if at >= 0], default=len(whole))
    out, stream = streamed(renderer, pieces, before="<think>", stops=stops)
    assert "".join(out) == stream.text
    assert ("<think>" + whole[:cut]).startswith(stream.text)
    stream.rest("<think>" + whole[:cut])
