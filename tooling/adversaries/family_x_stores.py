"""X9, X12: stores that lie or take their time, and strangers' words on the terminal, in logs and on the report's page.

X9 reads small objects from several buckets at once, one of them hostile, each within BOUND_S. A try is accepted if the hostile
bucket's read ends in anything but a typed error within the bound, or takes others' reads down. Its twins are honest: a store
just above the least speed, and objects of the largest size that a reader takes. X12 sends hostile words through the commands
as they are; a try is accepted if an outlet fails over them or lets a character through that acts, hides or turns around.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from grail_core.commands.options import run_cli
from grail_core.errors import StorageError
from grail_core.keys import LocalSigner
from grail_core.participant.settings import load_settings
from grail_core.protocol import (
    Finding,
    MinerStatus,
    MinerVerdict,
    Outcome,
    SignedVerdict,
    VerdictBody,
    Versions,
    WindowStatus,
    score_inputs,
)
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.s3 import S3Store
from grail_core.storage.time_limits import at_most
from grail_core.telemetry import configure, get_logger
from grail_core.telemetry.console import PlainConsole
from grail_core.verification.wording import reject
from grail_validator.explain import explain_window
from grail_validator.ledger import Ledger, PublishedFiles
from tooling.adversaries.rows import Row, Try
from tooling.localnet.report.facts import MinerIdentity, MinerWindowFact, RejectFact, RunFacts, WindowFact
from tooling.localnet.report.report import render
from tooling.localnet.report.summary import summarise
from tooling.testing.s3_server import ANYONE, BUCKET
from tooling.testing.scripted_server import Answer, RawAnswer, ScriptedServer

KEY = "grail/seals/anyone.json"
MAX_SEAL_BYTES = 32 << 10
BOUND_S = 1.5
HONEST_READERS = 3
_HEAD = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nLast-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n'
_LENGTH = b"Content-Length: %d\r\n\r\n"
SEAL = b"s" * MAX_SEAL_BYTES

LATE = RawAnswer(b"", b"", -1, pause_s=0.05)
HOSTILE_STORES: dict[str, Answer | RawAnswer] = {
    "never answers": LATE,
    "drips its headers": RawAnswer(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", -1, pause_s=0.05),
    "drips interim answers": RawAnswer(b"", b"HTTP/1.1 100 Continue\r\n\r\n", -1, pause_s=0.05),
    "drips its body": RawAnswer(_HEAD + _LENGTH % MAX_SEAL_BYTES, b"s", -1, pause_s=0.05),
    "breaks off": RawAnswer(_HEAD + _LENGTH % MAX_SEAL_BYTES + b"s", reset=True),
    "resets at once": RawAnswer(reset=True),
    "sends without end": RawAnswer(_HEAD + b"\r\n", bytes(1 << 16), -1),
    "announces 50 GB": RawAnswer(_HEAD + _LENGTH % 50_000_000_000, bytes(1 << 16), -1),
    "floods headers": RawAnswer(_HEAD, b"X: " + b"y" * 60_000 + b"\r\n", -1),
    "names another ETag": Answer(200, SEAL, {"ETag": '"other"'}),
    "names no ETag": Answer(200, SEAL),
    "names a weak ETag": Answer(200, SEAL, {"ETag": 'W/"e"'}),
    "sends another range": Answer(206, SEAL, {"ETag": '"e"', "Content-Range": "bytes 5-9/10"}),
    "sends elsewhere": Answer(307, b"", {"Location": "http://169.254.169.254/"}),
    "denies": Answer(403, b"<Error><Code>AccessDenied</Code><Message>\x1b[2J</Message></Error>"),
    "is never ready": Answer(503, b"<Error><Code>SlowDown</Code></Error>"),
    "speaks no HTTP": RawAnswer(b"SSH-2.0-OpenSSH_9.2\r\n"),
}


def run_x9(quick: bool = False) -> dict[str, Any]:
    """One hostile bucket among honest ones, read at the same time."""
    row = Row("X9", "read")
    names = list(HOSTILE_STORES)[:: 5 if quick else 1]
    slowest = RawAnswer(_HEAD + _LENGTH % MAX_SEAL_BYTES, SEAL[:2048], MAX_SEAL_BYTES // 2048, pause_s=BOUND_S / 60)
    with ScriptedServer(Answer(200, SEAL, {"ETag": '"e"'})) as largest, ScriptedServer(slowest) as slow:
        honest = [S3Store(server.url, BUCKET, ANYONE) for server in (largest, slow, largest)][:HONEST_READERS]
        for store in honest:
            _ = store._requests.client  # made once, as by a role that has run for a window
        for name in names:
            with ScriptedServer(HOSTILE_STORES[name]) as server:
                _read_beside(row, name, S3Store(server.url, BUCKET, ANYONE), honest)
        with tempfile.TemporaryDirectory(prefix="grail-sparse-") as folder:
            _sparse(row, Path(folder), honest)
    return row.to_json()


def _sparse(row: Row, root: Path, honest: list[S3Store]) -> None:
    bucket = FilesystemStore(root, "mallory")
    with (root / "mallory" / "seal").open("wb") as file:
        file.truncate(4 << 40)
    _read_beside(row, "a sparse object of 4 TiB", bucket, honest, key="seal", etag=None)
    info = bucket.head("seal")
    row.honest_tries += 1
    row.honest_false_rejects += info is None or bucket.get("seal", max_bytes=9, if_match=info.etag, length=9) != bytes(9)


def _read_beside(
    row: Row, name: str, hostile: ObjectStore, honest: list[S3Store], *, key: str = KEY, etag: str | None = "e"
) -> None:
    def read(store: ObjectStore, key: str, etag: str | None) -> tuple[bytes | Exception, float]:
        started = time.monotonic()
        try:
            with at_most(BOUND_S):
                outcome: bytes | Exception = store.get(key, max_bytes=MAX_SEAL_BYTES, if_match=etag)
        except Exception as error:  # noqa: BLE001  what it is decides the row
            outcome = error
        return outcome, time.monotonic() - started

    with ThreadPoolExecutor(len(honest) + 1) as pool:
        asked = pool.submit(read, hostile, key, etag)
        others = [pool.submit(read, store, KEY, "e") for store in honest]
        outcome, seconds = asked.result()
        for other in others:
            row.honest_tries += 1
            row.honest_false_rejects += other.result()[0] != SEAL
    typed = isinstance(outcome, StorageError)
    accepted = not typed or seconds > 2 * BOUND_S  # the machine may be busy: the bound itself is the tests'
    row.tries.append(Try(name, accepted, "" if accepted else type(outcome).__name__, str(outcome)[:200]))


WORDS = {
    "Rich markup": "[/x] [bold]y[/bold] [link=file:///etc/passwd]z[/link] :smile:",
    "a cleared screen": "ok\x1b[2J\x1b[H",
    "a forged line": "absent\r\nwindow 60: scored",
    "a title for the terminal": "\x1b]0;pwned\x07",
    "one-byte controls": "\x9b31m\x90\x9d",
    "turned around": "\u202e17 miners failed\u202c \u2066x\u2069 \u200f",
    "hidden": "a\u200bb\u2060c\ufeffd\u00ade\U000e0041",
    "broken lines": "a\u2028b\u2029c\x85d",
    "piled accents": "e" + "\u0301" * 400,
    "half a character": "a\ud800b",
    "HTML": "<script>alert(1)</script>\"'><img src=x onerror=y>",
    "very long": "x" * 300_000,
}
HONEST_WORDS = "sketch error 0.5 (threshold 0.3), Zürich 2⁶⁴"


def run_x12(quick: bool = False) -> dict[str, Any]:
    """Every hostile text by every outlet; the twin is an honest text, which every outlet shows as it stands."""
    row = Row("X12", "text")
    with tempfile.TemporaryDirectory(prefix="grail-words-") as folder:
        for outlet, show in OUTLETS.items():
            for name, words in list(WORDS.items())[:: 3 if quick else 1]:
                try:
                    shown = show(words, Path(folder))
                except Exception as error:  # noqa: BLE001  an outlet that fails over a text has let it through
                    row.tries.append(Try(f"{outlet}: {name}", True, "", repr(error)[:200]))
                    continue
                fault = fault_of(shown)
                row.tries.append(Try(f"{outlet}: {name}", bool(fault), "" if fault else outlet, fault or "shown harmless"))
            row.honest_tries += 1
            row.honest_false_rejects += HONEST_WORDS not in show(HONEST_WORDS, Path(folder))
    return row.to_json()


def fault_of(shown: str) -> str:
    """What in a text acts, hides, turns around or does not end; "" if nothing does."""
    for character in shown.replace("\n", ""):
        kind, direction = unicodedata.category(character), unicodedata.bidirectional(character)
        if kind in ("Cc", "Cf", "Cs", "Zl", "Zp") or direction in ("R", "AL"):
            return f"U+{ord(character):04X} is shown"
    if "\u0301" * 5 in shown:
        return "accents pile up"
    return f"{len(shown)} characters are shown" if len(shown) > 200_000 else ""


def _explained(words: str, folder: Path) -> str:
    """`grail-validator explain`, over a verdict that holds the text as it came: an older one, or one by another program."""
    words = words.encode("utf-8", "replace").decode()[:128]  # a verdict is UTF-8, and bounds its texts
    finding = Finding("proof", Outcome.REJECT, words, words, words, 0)
    signer = LocalSigner.from_seed(bytes(32))
    miner = MinerVerdict(
        signer.hotkey,
        4,
        MinerStatus.FAILED,
        words,
        active=True,
        declared=32,
        checked=True,
        check_probability=Fraction(1),
        coin=0,
        findings=(finding,),
    )
    network = Digest(bytes(32))
    body = VerdictBody(
        network,
        Window(30),
        WindowStatus.SCORED,
        Versions("a", "b", "c"),
        reason=words,
        miners=(miner,),
        hotkeys={4: signer.hotkey},
        score_inputs={4: score_inputs([miner.miner_window(Window(30))], Window(30))},
    )
    verdict = SignedVerdict(body, signer.hotkey, signer.sign(SignedVerdict.message(body, signer.hotkey)))
    path = Path(tempfile.mkdtemp(dir=folder)) / "ledger.sqlite"
    ledger = Ledger(path, network_id=network, hotkey=signer.hotkey)
    ledger.record_judged(Window(30), body, PublishedFiles(verdict.encode(), b""), {}, {})
    with _wide(), _terminal() as out:
        explain_window(load_settings(), 30, ledger=path, hotkey=None, as_json=False)
    return out.getvalue()


def _logged(words: str, folder: Path) -> str:
    """The terminal's line of an event, and its line in the file where no word is lost."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    path = Path(tempfile.mkdtemp(dir=folder)) / "log.jsonl"
    try:
        with _terminal() as out:
            configure("validator", log_file=path)
            get_logger("grail_validator.words").event("refused", reason=words, texts=[words])
            try:
                raise StorageError(words, where=words)
            except StorageError:
                get_logger("grail_validator.words").exception("failed")
            for handler in root.handlers:
                handler.flush()
    finally:
        for handler in [one for one in root.handlers if one not in handlers]:
            root.removeHandler(handler)
            handler.close()
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
    return out.getvalue() + path.read_text(encoding="utf-8")


def _ended_with(words: str, folder: Path) -> str:
    """A command that ends with an error over somebody's text, and one that breaks over it."""
    shown, given = "", sys.argv
    sys.argv = ["grail"]  # not what this run was given: with --json the error is one, for a machine
    try:
        for error in (StorageError(words, where=words, hint=words), RuntimeError(words)):
            with _terminal() as out, contextlib.suppress(SystemExit):
                run_cli(_Failing(error))
            shown += out.getvalue()
    finally:
        sys.argv = given
    return shown


class _Failing(click.Command):
    """A command that ends with an error, whatever stands on the command line."""

    def __init__(self, error: Exception) -> None:
        super().__init__("failing")
        self._error = error

    def main(self, *_: Any, **__: Any) -> Any:
        raise self._error


def _found(words: str, folder: Path) -> str:
    finding = reject("schema", value=words, detail=words)
    return f"{finding.value}\n{finding.detail}"


def _refused_by_store(words: str, folder: Path) -> str:
    """What a store says in its error, as the error says it."""
    body = f"<Error><Code>Odd</Code><Message>{words.replace('<', '')}</Message></Error>".encode("utf-8", "surrogatepass")
    with ScriptedServer(Answer(400, body)) as server:
        try:
            S3Store(server.url, BUCKET, ANYONE).get("x", max_bytes=1)
        except StorageError as error:
            return str(error)
    raise AssertionError("a refusal was taken for an answer")


def _drawn(words: str, folder: Path) -> str:
    """A line and a cell by the one console."""
    table = Table(words[:50], title=words[:50])
    table.add_row(words[:500])
    with _terminal() as out:
        console = PlainConsole(width=1000)
        console.print(words[:2000])
        console.print(Text(words[:2000]))
        console.print(table)
    return out.getvalue()


def _reported(words: str, folder: Path) -> str:
    """The report's page. Its characters are looked at; tags of its own stand in it and none of the text's."""
    words = words[:2000]
    facts = RunFacts(
        env_id=words,
        seed=0,
        quick=True,
        model=words,
        windows_asked=1,
        first_window=30,
        block_time_ms=1500,
        started_at=words,
        seconds_total=1.0,
        finished=False,
        why_unfinished=words,
        miners=(MinerIdentity(words[:40], "5F", 4, "honest"),),
        validators=("validator-1",),
        windows=(WindowFact(30, 0, ("validator-1",), {}, None, 16, 0),),
        miner_windows=(MinerWindowFact(30, words[:40], "failed", 16, 0, words),),
        rejects=(RejectFact("validator-1", 30, words[:40], words[:64], words, words, words),),
        versions={words[:40]: words},
        machine={words[:40]: words},
        command=words,
    )
    page = render(facts, summarise(facts))
    if "<script" in page or "<img" in page:
        raise AssertionError("a stranger's tag stands in the page")
    return page


OUTLETS: dict[str, Callable[[str, Path], str]] = {
    "explain": _explained,
    "logs": _logged,
    "errors of a command": _ended_with,
    "findings": _found,
    "a store's error": _refused_by_store,
    "the console": _drawn,
    "the report": _reported,
}


@contextlib.contextmanager
def _terminal() -> Iterator[io.StringIO]:
    """What a command writes to either stream."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield out


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """A terminal wide enough that no cell is folded."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"X9": run_x9, "X12": run_x12}
