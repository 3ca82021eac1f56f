"""A model larger than the shipped table knows: measured by `grail receipts calibrate`, and its receipts judged by that."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grail_core.calibration.measure import ATTENTIONS
from grail_core.calibration.model_receipts import HonestNode, measure_model
from grail_core.calibration.receipt_prompts import BUILT_IN, prompts_of
from grail_core.calibration.receipts import CHOICES
from grail_core.commands.calibrate_receipts import Asked, measured_table
from grail_core.commands.grail import cli
from grail_core.errors import ConfigurationError, GrailError
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_core.inference.signatures import account_of, command_message
from grail_core.inference.typed_data import order_digest
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.receipt_bounds import TABLE_FILE, shipped_receipt_table
from grail_core.protocol.policy import GenerationPolicy
from tooling import REPOSITORY
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.keys import ALICE, BOB, EVE
from tooling.testing.models.tiny_qwen2 import BYTES, END_TOKEN_ID, save_byte_model
from tooling.testing.serving_node import RunningNode, answering_of, running_node
from tooling.testing.wallets import ADDRESS, wallet_signature

WIDE = replace(BYTES, end=END_TOKEN_ID, layers=1, hidden=520, intermediate=64, spread=0.02)
"""A little wider than the shipped table covers."""
POLICY = GenerationPolicy(24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("wide"), WIDE)


@pytest.fixture(scope="module")
def node(folder: Path) -> ClosedAnswers:
    return answering_of(folder)


def grail(*arguments: object, stdin: bytes = b"") -> Result:
    done = CliRunner().invoke(cli, list(map(str, arguments)), input=stdin)
    if done.exception is not None and not isinstance(done.exception, GrailError | SystemExit):
        raise done.exception
    return done


def code(done: Result) -> int:
    return done.exception.exit_code if isinstance(done.exception, GrailError) else done.exit_code


@pytest.fixture(scope="module")
def table(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table") / "table.json"
    done = grail("receipts", "calibrate", "--model", folder, "--out", out, "--answers", 92, "--max-tokens", 12, "--json")
    assert done.exit_code == 0, done.exception
    said = json.loads(done.stdout)
    assert said["measured"]["answers"] == 92
    assert 300 <= said["measured"]["choices"] <= 92 * CHOICES
    for pair in said["pairs"]:
        assert sum(one["choices"] for one in pair["lengths"]) == 92 * CHOICES
    assert said["false_unproven_below"] == pytest.approx(3 / said["measured"]["choices"])
    return out


def receipt_of(node: ClosedAnswers, number: int = 0, *, replaced: bool = False) -> Receipt:
    """An honest one, or one with a token in its middle that no seed drew, proved anew."""
    order = node.unsigned(Features(prompt=f"Once upon a time {number}"), POLICY, 1, 0)
    admitted = node.admit(order, POLICY, now_s=0)
    ((tokens,),) = node.draw([admitted])
    if replaced:
        tokens = (*tokens[:5], (tokens[5] + 7) % END_TOKEN_ID, *tokens[6:])
    return node.prove(admitted, [tokens])


@pytest.fixture
def honest(node: ClosedAnswers, tmp_path: Path) -> Path:
    return written(tmp_path / "receipt.json", receipt_of(node))


def written(file: Path, receipt: Receipt) -> Path:
    file.write_bytes(receipt.to_bytes())
    return file


def test_a_model_that_no_table_knows_is_calibrated_by_the_readers_own_which_is_named(
    honest: Path, folder: Path, table: Path
) -> None:
    without = grail("verify", honest, "--model", folder, "--require", "calibrated")
    assert (code(without), "not calibrated for a model of this shape" in without.stdout) == (14, True)
    done = grail("verify", honest, "--model", folder, "--table", table, "--require", "calibrated")
    assert code(done) == 0, done.stdout
    assert "ACCEPTED, by the bounds of your own table" in done.stdout
    assert f"by your own table {table}" in done.stdout
    said = json.loads(grail("verify", honest, "--model", folder, "--table", table, "--json").stdout)["receipts"][0]
    assert (said["calibrated"], said["table"]["file"]) == (True, str(table))
    assert any(said["table"]["sha256"] in text for text in said["trust"])


def test_what_the_coarse_bounds_let_pass_the_readers_table_does_not(
    node: ClosedAnswers, folder: Path, table: Path, tmp_path: Path
) -> None:
    file = written(tmp_path / "one-token.json", receipt_of(node, replaced=True))
    assert code(grail("verify", file, "--model", folder)) == 0
    done = grail("verify", file, "--model", folder, "--table", table)
    assert (code(done), "sampling: choice 0: margin" in str(done.exception)) == (14, True)


def test_a_table_of_another_model_holds_for_nothing_and_the_report_says_so(
    honest: Path, folder: Path, table: Path, tmp_path: Path
) -> None:
    other = json.loads(table.read_bytes())
    other["model"]["weights_root"] = "00" * 32
    file = tmp_path / "other.json"
    file.write_text(json.dumps(other))
    done = grail("verify", honest, "--model", folder, "--table", file)
    assert (code(done), f"your table {file}: it has no bounds for this model" in done.stdout) == (0, True)
    assert "ACCEPTED, by the coarse bounds alone" in done.stdout


def test_a_table_of_shapes_holds_by_the_shipped_ones_rule(honest: Path, folder: Path, table: Path, tmp_path: Path) -> None:
    whole = json.loads(table.read_bytes())
    shapes = {"format": 1} | {name: whole[name] for name in ("version", "place", "pairs")}
    for width, accepted in ((521, True), (519, False)):
        for pair in shapes["pairs"]:
            pair["shapes"] = [{"layers": 2, "hidden_size": width}]
        file = tmp_path / f"{width}.json"
        file.write_text(json.dumps(shapes))
        done = grail("verify", honest, "--model", folder, "--table", file, "--require", "calibrated")
        assert code(done) == (0 if accepted else 14), done.stdout


def test_too_few_choices_make_no_table(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    done = grail("receipts", "calibrate", "--model", folder, "--out", out, "--answers", 10)
    assert isinstance(done.exception, ConfigurationError)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(ConfigurationError, match="0 different choices are too few"):
        measured_table(Asked(folder, None, 160, 16, "cpu", ("cpu",), None), stopped)
    assert not out.exists()


def test_whoever_stops_it_keeps_what_was_measured_and_a_choice_counts_once(folder: Path) -> None:
    model = PolicyModel.load(folder)
    done: list[int] = []
    honest = HonestNode(model, [model], frozenset((END_TOKEN_ID,)), 1)
    prompt = PromptRenderer(folder).encode("Hi")
    extremes, counts = measure_model(honest, [prompt], 40, told=done.append, stopped=lambda: len(done) >= 20)
    assert (counts.answers, done[-1]) == (20, 20)
    assert 0 < counts.choices < 20 * CHOICES  # of one token after one prompt there are not so many
    assert {(pair.miner, pair.validator) for pair in extremes.table("t", "here").pairs} == {
        (f"bf16-{miner}-cpu-transformers", f"bf16-{own}-cpu-transformers") for miner in ATTENTIONS for own in ATTENTIONS
    }


def test_questions_are_read_strictly_and_the_line_is_named(folder: Path, tmp_path: Path) -> None:
    renderer, file = PromptRenderer(folder), tmp_path / "questions.jsonl"
    assert len(prompts_of(None, renderer)) == len(BUILT_IN)
    file.write_text('{"prompt": "The"}\n\n{"messages": [{"role": "user", "content": "Hi"}]}\n')
    assert prompts_of(file, renderer)[0] == renderer.encode("The")
    for line in ("[1, 2]", '{"prompt": 3}', '{"prompt": "a", "more": 1}', '{"messages": []}', "{", '{"prompt": "\\ud800"}'):
        file.write_text('{"prompt": "The"}\n' + line)
        with pytest.raises(ConfigurationError) as refused:
            prompts_of(file, renderer)
        assert refused.value.where == f"{file}, line 2"


def test_the_shipped_table_is_what_it_was() -> None:
    raw = (REPOSITORY / "packages" / "grail-core" / "src" / "grail_core" / "proof" / TABLE_FILE).read_bytes()
    assert shipped_receipt_table().to_bytes() == raw


def test_a_file_that_cannot_be_read_is_reported_and_the_others_are_checked(
    honest: Path, node: ClosedAnswers, folder: Path, tmp_path: Path
) -> None:
    missing, wrong = tmp_path / "missing.json", tmp_path / "wrong.json"
    wrong.write_text("{}")
    done = grail("verify", missing, honest, tmp_path, "--model", folder, "--json")
    said = [(one["file"], one["outcome"]) for one in json.loads(done.stdout)["receipts"]]
    assert said == [(str(missing), "inconclusive"), (str(honest), "accept"), (str(tmp_path), "inconclusive")]
    assert code(done) == 15
    assert code(grail("verify", missing, wrong, "--model", folder)) == 13


def test_a_receipt_comes_from_standard_input_once(honest: Path, folder: Path) -> None:
    done = grail("verify", "-", "--model", folder, "--json", stdin=honest.read_bytes())
    assert (code(done), json.loads(done.stdout)["receipts"][0]["file"]) == (0, "standard input")
    assert code(grail("verify", "-", "-", "--model", folder)) == 2


def signed_by(node: ClosedAnswers, owner: bytes, wallet: bool) -> Receipt:
    order = node.unsigned(Features(prompt="Once upon a time"), POLICY, 1, 0)
    order = replace(order, subscription=replace(order.subscription, owner=owner))
    domain = node.domain
    signature: Any = (
        wallet_signature(domain, order) if wallet else BOB.sign(command_message(node.network.id, order_digest(domain, order)))
    )
    return node.answer([node.admit(replace(order, signature=signature), POLICY, now_s=0)])[0]


@pytest.mark.parametrize("wallet", [False, True], ids=["hotkey", "address"])
def test_an_orders_owner_is_the_one_that_was_known_before_or_it_is_rejected(
    wallet: bool, node: ClosedAnswers, tmp_path: Path
) -> None:
    owner = account_of(ADDRESS) if wallet else bytes(BOB.hotkey)
    file = written(tmp_path / "signed.json", signed_by(node, owner, wallet))
    names = [f"0x{ADDRESS.hex()}"] if wallet else [BOB.ss58, BOB.hotkey.hex()]
    for name in names:
        assert code(grail("verify", file, "--owner", name)) == 15  # no model is given: nothing else is missing
    other = EVE.ss58 if wallet else f"0x{ADDRESS.hex()}"
    done = grail("verify", file, "--owner", other)
    assert (code(done), "not the one that was asked for" in str(done.exception)) == (13, True)


def test_an_order_that_nobody_signed_has_no_owner(honest: Path, folder: Path) -> None:
    done = grail("verify", honest, "--model", folder, "--owner", BOB.ss58)
    assert (code(done), "the order is signed by" in str(done.exception)) == (14, True)


@pytest.mark.parametrize(
    "text",
    ["0x12", "0x" + "g" * 40, "0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "5Grwva", "0x" + "٣" * 40],
)
def test_an_owner_that_is_none_is_refused(text: str, honest: Path) -> None:
    done = grail("verify", honest, "--owner", text)
    assert (code(done), "--owner" in done.stderr) == (2, True)


@pytest.fixture(scope="module")
def running(node: ClosedAnswers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(node, tmp_path_factory.mktemp("state")) as found:
        yield found


def test_an_answer_is_judged_by_the_readers_table_as_it_is_asked(running: RunningNode, folder: Path, table: Path) -> None:
    asked = ("ask", "Once upon a time", "--complete", "--max-tokens", 8, "--node", running.url, "--model", folder)
    assert code(grail(*asked, "--require", "calibrated")) == 14
    done = grail(*asked, "--require", "calibrated", "--table", table, "--key", ALICE.ss58)
    assert (code(done), f"bounds of your own table {table}" in done.stderr) == (0, True)


def test_another_thinking_mode_than_was_asked_for_is_rejected(running: RunningNode, folder: Path) -> None:
    asked = ("ask", "Hi", "--max-tokens", 8, "--node", running.url, "--model", folder)
    assert code(grail(*asked, "--thinking", "none")) == 0
    done = grail(*asked, "--thinking", "instructed")
    assert (code(done), "question: the node answered in the thinking mode" in str(done.exception)) == (13, True)
