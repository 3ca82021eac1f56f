"""`grail ask`: a question to a node, its answer, and the receipt checked before the answer is believed."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import verbose_option
from grail_core.commands.receipts import Named, end_with_worst, key_option, require_option

if TYPE_CHECKING:
    from grail_core.commands.node_client import Asked, Question
    from grail_core.verification.receipt import ReceiptReport

DEFAULT_NODE = "http://127.0.0.1:4000"


@click.command()
@click.argument("text")
@click.option("--node", "url", default=DEFAULT_NODE, show_default=True, metavar="URL", help="Where the node answers.")
@click.option("--system", help="A system message before it.")
@click.option("--complete", is_flag=True, help="TEXT is a text to go on with, not a message: no chat template.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Of an answer, at most.")
@click.option("--temperature", type=click.FloatRange(min=0, max=10), default=1.0, show_default=True)
@click.option("--top-p", type=click.FloatRange(min=0.001, max=1), default=1.0, show_default=True)
@click.option("--choices", type=click.IntRange(1, 16), default=1, show_default=True, help="Answers to draw.")
@click.option(
    "--stop",
    multiple=True,
    metavar="STOP",
    help="A text that ends an answer, and is not part of it; up to four, each with a --stop of its own.",
)
@click.option(
    "--seed",
    type=int,
    help="The same seed gives the same answer (default: one is drawn, so that the node has no draws to choose from).",
)
@click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The model's folder: the receipt is checked with it at once (default: one of the hub's cache, if it is there).",
)
@require_option
@key_option
@click.option("--receipt", "file", type=click.Path(path_type=Path, dir_okay=False), help="Where to put the receipt.")
@click.option("--network", help="The node's network, where it belongs to one: a name, or a JSON file of network parameters.")
@click.option("--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Seconds for an answer.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@verbose_option
def ask(
    text: str,
    url: str,
    system: str | None,
    complete: bool,
    max_tokens: int,
    temperature: float,
    top_p: float,
    choices: int,
    stop: tuple[str, ...],
    seed: int | None,
    folder: Path | None,
    require: tuple[str, ...],
    key: bytes | None,
    file: Path | None,
    network: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask a node TEXT, print the answer, fetch its receipt and check it.

    The receipt must be of this very question and text; with the model's folder it is checked whole, as `grail verify` does,
    else the report says what was not checked. Nobody's key is needed: an order that nobody signs follows from the question.
    The answer goes to standard output, what is said of the receipt to standard error.

    \b
    Exit code 0: answered, and nothing speaks against the receipt (with --model: accepted). 13: rejected. 14: unproven.
    15: with --model, inconclusive. 3: a wrong setting. 5: the node does not answer, or refuses.

    \b
      grail ask "What is 2 + 2?" --model ./Qwen2.5-0.5B-Instruct
      grail ask "Once upon a time" --complete --max-tokens 64 --stop "The end" --receipt receipt.json
    """
    from grail_core.commands.node_client import Question, ask_node
    from grail_core.disk import write_atomically

    if complete and system is not None:
        raise click.UsageError("--system is a message, and --complete sends none")
    drawn = secrets.randbelow(2**53) if seed is None else seed
    question = Question(text, system, complete, max_tokens, temperature, top_p, choices, drawn, tuple(dict.fromkeys(stop)))
    asked = ask_node(url, question, timeout)
    if file is not None:
        write_atomically(file, asked.receipt)
    named = Named(
        str(file) if file is not None else "the receipt", _checked(asked, question, Wanted(folder, network, require, key))
    )
    if as_json:
        click.echo(_json_of(asked, named))
    else:
        click.echo(_text_of(asked))
        click.echo(_about_receipt(named, file), err=True)  # beside the answer, which alone goes into a pipe
    if folder is not None or named.report.receipt is None or named.report.outcome.value != "inconclusive":
        end_with_worst([named])


@dataclass(frozen=True)
class Wanted:
    """What the receipt is held against."""

    folder: Path | None
    network: str | None
    require: tuple[str, ...]
    key: bytes | None


def _checked(asked: Asked, question: Question, wanted: Wanted) -> ReceiptReport:
    from grail_core.commands.node_client import of_this_question
    from grail_core.commands.receipt_models import Folders
    from grail_core.commands.receipts import network_named
    from grail_core.protocol.types import Hotkey
    from grail_core.verification.receipt import check_receipt

    report = check_receipt(
        asked.receipt,
        seed=os.urandom(32),
        network=None if wanted.network is None else network_named(wanted.network),
        model=Folders(wanted.folder, "cpu").of(asked.receipt),
        require=wanted.require,
        node=None if wanted.key is None else Hotkey(wanted.key),
    )
    return of_this_question(report, question, asked)


def _text_of(asked: Asked) -> str:
    from grail_core.text import printable_lines

    lines = []
    for index, text in enumerate(asked.texts):
        lines += [f"Choice {index}:"] if len(asked.texts) > 1 else []
        lines += [printable_lines(text), ""]
    return "\n".join(lines)


def _about_receipt(named: Named, file: Path | None) -> str:
    from grail_core.commands.receipt_report import verdict_of
    from grail_core.keys import ss58

    report = named.report
    lines = [f"receipt: {verdict_of(report)}"]
    if report.receipt is not None:
        lines.append(f"receipt: of node {ss58(report.receipt.node)} (--key holds it to one that you know)")
    lines += [f"receipt: not enforced: {text}" for text in report.not_enforced]
    if file is not None:
        lines.append(f"receipt: in {file}; anybody checks it with: grail verify {file} --model FOLDER")
    return "\n".join(lines)


def _json_of(asked: Asked, named: Named) -> str:
    from grail_core.commands.receipt_report import report_json

    return json.dumps({"texts": list(asked.texts), "receipt": report_json(named)}, indent=1)
