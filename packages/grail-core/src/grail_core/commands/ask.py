"""`grail ask`: a question to a node, its answer, and the receipt checked before the answer is believed."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import verbose_option
from grail_core.commands.receipt_options import Wanted, genesis_option, key_option, require_option, table_option
from grail_core.commands.receipts import Named, end_with_worst

if TYPE_CHECKING:
    from grail_core.commands.node_client import Asked, AskedNode, Question
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
@table_option
@click.option(
    "--thinking",
    type=click.Choice(["native", "instructed", "none"]),
    help="The thinking mode that it must be answered in (default: none, or that of a checkpoint that its trainer signed).",
)
@click.option(
    "--receipt",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to put the receipt: a new file in a folder that exists.",
)
@click.option("--force", is_flag=True, help="Let --receipt take the place of a file that is there.")
@click.option(
    "--network",
    default="subnet-81",
    show_default=True,
    help="The node's network, on which every draw hangs: a name, or a JSON file of network parameters.",
)
@genesis_option
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the token that the node's operator gave you (default: GRAIL_NODE_TOKEN, if it is set).",
)
@click.option("--no-stream", is_flag=True, help="Ask for the answer as a whole; so are several choices, and with --json.")
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
    table: Path | None,
    thinking: str | None,
    file: Path | None,
    force: bool,
    network: str | None,
    genesis: bytes | None,
    token_file: Path | None,
    no_stream: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask a node TEXT, print the answer, fetch its receipt and check it.

    The text is printed as it comes, and nothing vouches for it before the receipt was checked, which must be of this very
    question and of the text that was printed. With the model's folder it is checked whole, as `grail verify` does, else the
    report says what was not checked. Nobody's key is needed: an order that nobody signs follows from the question. The answer
    goes to standard output, what is said of the receipt to standard error.

    \b
    Exit code 0: answered, and nothing speaks against the receipt (with --model: accepted). 13: rejected. 14: unproven.
    15: with --model, inconclusive. 3: a wrong setting. 5: the node does not answer, or refuses. 6: the folder is no model.

    \b
      grail ask "What is 2 + 2?" --model ./Qwen2.5-0.5B-Instruct
      grail ask "Once upon a time" --complete --max-tokens 64 --stop "The end" --receipt receipt.json
      grail ask "What is 2 + 2?" --node https://node.example.org --token-file token.txt --key 5Grwva…
    """
    from grail_core.commands.new_file import require_new
    from grail_core.commands.node_client import AskedNode, Question, ask_node, of_this_question, only_the_model_is_missing
    from grail_core.commands.node_http import TOKEN_VARIABLE, client_token, in_the_clear, shown
    from grail_core.disk import write_atomically
    from grail_core.text import printable

    if complete and system is not None:
        raise click.UsageError("--system is a message, and --complete sends none")
    drawn = secrets.randbelow(2**53) if seed is None else seed
    stops = tuple(dict.fromkeys(stop))
    question = Question(text, system, complete, max_tokens, temperature, top_p, choices, drawn, stops, thinking)
    wanted = Wanted(folder, network, genesis, require, key, table=table)
    wanted.read()
    if file is not None:
        require_new(file, force=force, option="--receipt")
    node = AskedNode(url, timeout, client_token(token_file))
    if node.token is not None and in_the_clear(url):
        source = TOKEN_VARIABLE if token_file is None else token_file
        click.echo(f"warning: the token of {source} goes to {printable(shown(url))} unencrypted; ask by https://", err=True)
    streams = choices == 1 and not as_json and not no_stream
    asked = _streamed(node, question) if streams else ask_node(node, question)
    if file is not None:
        write_atomically(file, asked.receipt)
    report = of_this_question(wanted.check(asked.receipt), question, asked)
    named = Named(str(file) if file is not None else "the receipt", report)
    if as_json:
        click.echo(_json_of(asked, named))
    else:
        if not streams:
            click.echo(_text_of(asked))
        click.echo(_about_receipt(named, file), err=True)  # beside the answer, which alone goes into a pipe
    if folder is not None or not only_the_model_is_missing(named.report):
        end_with_worst([named])


def _streamed(node: AskedNode, question: Question) -> Asked:
    """The answer, printed as it comes."""
    from grail_core.commands.node_client import ask_node
    from grail_core.text import PrintableStream

    shown = PrintableStream()
    begun = False

    def told(piece: str) -> None:
        nonlocal begun
        begun = True
        click.echo(shown.add(piece), nl=False)  # which flushes

    try:
        asked = ask_node(node, question, told)
    except BaseException:
        if begun:
            click.echo()  # what is said of it does not stand behind the half of an answer
        raise
    click.echo("\n")
    return asked


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
    from grail_core.text import printable

    report = named.report
    lines = [f"receipt: {verdict_of(report)}"]
    if report.receipt is not None:
        lines.append(f"receipt: of node {ss58(report.receipt.node)} (--key holds it to one that you know)")
        model = report.receipt.model
        named_model = f"{printable(model.architecture)} with weights {model.weights_root.hex()[:16]}…"
        lines.append(f"receipt: of the model {named_model}{_whose(report)}")
    by = report.judged_by
    if by is not None and by.file is not None:
        lines.append(f"receipt: bounds of your own table {by.file} (SHA-256 {by.digest.hex()})")
    lines += [f"receipt: not enforced: {text}" for text in report.not_enforced]
    if file is not None:
        lines.append(f"receipt: in {file}; anybody checks it with: grail verify {file} --model FOLDER")
    return "\n".join(lines)


def _whose(report: ReceiptReport) -> str:
    """Where the model was found that it was held against."""
    found = next((one.detail for one in report.findings if one.check == "model" and one.outcome.value == "accept"), None)
    return f": {found}" if found else ", which was not looked at"


def _json_of(asked: Asked, named: Named) -> str:
    from grail_core.commands.receipt_report import report_json

    return json.dumps({"texts": list(asked.texts), "receipt": report_json(named)}, indent=1)
