"""`hatch run receipts`: the table of single receipts, and what one receipt shows.

hatch run receipts power                        the trained model of 4 layers x 128, answers of 1, 8, 64 and 256 tokens
hatch run receipts power --size 12x512 --count 12 --lengths 64 --json
hatch run receipts honest --count 1000          how many honest receipts are unproven
hatch run receipts calibrate                    make the table anew, grail_core/proof/receipts.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grail_core.calibration.receipts import Extremes
from grail_core.inference.answers import Answer
from grail_core.proof.receipt_bounds import TABLE_FILE, shipped_receipt_table
from grail_core.protocol.findings import Outcome
from grail_core.protocol.policy import GenerationPolicy
from tooling import REPOSITORY
from tooling.adversaries.size import STUDIED
from tooling.studies.receipts.calibration import calibrate
from tooling.studies.receipts.deviations import DEVIATIONS, Forger
from tooling.studies.receipts.node import StudiedNode, questions
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.served_answers import ServedAnswers

TABLE = REPOSITORY / "packages" / "grail-core" / "src" / "grail_core" / "proof" / TABLE_FILE
FIRST_OTHER = 1_000_000
"""Questions from this number on are none that the table was made from: other seeds, other projections."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="hatch run receipts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    power_of = what.add_parser("power", help="how often each deviation is found by one receipt")
    power_of.add_argument("--lengths", default="1,8,64,256", help="tokens of the answers")
    power_of.add_argument("--only", default="", help="words of the deviations wanted, separated by commas")
    honest_of = what.add_parser("honest", help="how many honest receipts are unproven, and their largest values")
    table_of = what.add_parser("calibrate", help="make the table anew")
    table_of.add_argument(
        "--sizes",
        default="4x128:240,6x256:80,12x512:32",
        help="with answers of four choices, for each attention",
    )
    table_of.add_argument("--version", default="receipts-bf16-cpu/1")
    table_of.add_argument("--out", type=Path, default=TABLE)
    for one, count in ((power_of, 24), (honest_of, 1000)):
        one.add_argument("--size", choices=sorted(STUDIED), default="4x128")
        one.add_argument("--count", type=int, default=count, help="receipts of each")
        one.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.what == "calibrate":
        sizes = {name: int(answers) for name, _, answers in (part.partition(":") for part in options.sizes.split(","))}
        return _calibrate(sizes, options.version, options.out)
    node = StudiedNode(STUDIED[options.size])
    if options.what == "honest":
        result = honest(node, options.count)
    else:
        lengths = [int(text) for text in options.lengths.split(",")]
        only = [word for word in options.only.split(",") if word]
        result = power(node, options.count, lengths, only)
    print(json.dumps(result) if options.as_json else _as_text(result))
    return 0


def power(node: StudiedNode, count: int, lengths: Sequence[int], only: Sequence[str] = ()) -> dict[str, Any]:
    """{"deviations": {name: {length: {"outcomes": {…}, "by": {…}}}}}: what becomes of `count` receipts of each."""
    forger = Forger(node)
    found: dict[str, dict[str, Any]] = {}
    names = [name for name in DEVIATIONS if not only or any(word in name for word in only)]
    for length in lengths:
        orders = node.full_orders(count, length, FIRST_OTHER)
        for name in names:
            print(f"{length} tokens: {name} …", file=sys.stderr, flush=True)
            reports = [node.check(DEVIATIONS[name](forger, order), number) for number, order in enumerate(orders)]
            outcomes = Counter(report.outcome.value for report in reports)
            by = Counter(one.detail.split(": ")[1] for report in reports if (one := report.decisive) is not None)
            found.setdefault(name, {})[str(length)] = {"receipts": count, "outcomes": dict(outcomes), "by": dict(by)}
    return {"size": node.size.name, "table": shipped_receipt_table().version, "deviations": found}


def honest(node: StudiedNode, count: int) -> dict[str, Any]:
    """Honest receipts of many lengths and policies, checked as anybody checks them: of nodes that prove by a pass, in SDPA and
    in eager attention, and of one that proves from the states that it drew from, as a server on a CPU does."""
    policies = [GenerationPolicy(limit, *more) for limit in (1, 8, 64, 128) for more in ((), (0.7, 0.95), (1.0, 1.0, 50))]
    unproven, outcomes, tokens = [], Counter[str](), 0
    nodes: dict[str, ClosedAnswers | ServedAnswers] = {
        "sdpa": node.honest,
        "eager": node.answering(node.loaded.eager),
        "served": node.serving,
    }
    largest: dict[str, dict[str, float]] = {name: {} for name in nodes}
    for number, question in enumerate(questions(node.corpus, count, 2 * FIRST_OTHER)):
        attention = ("sdpa", "served", "eager", "served")[number % 4]
        order = node.order(question, policies[number // 4 % len(policies)], choices=1 + number % 3, logprobs=number % 5 == 0)
        receipt = nodes[attention].answer([order])[0]
        report = node.check(_as_of(receipt, attention, nodes), number)
        outcomes[report.outcome.value] += 1
        tokens += sum(receipt.answer.lengths)
        for finding in report.findings:
            if finding.detail.startswith("choice ") and finding.value is not None:
                statistic = finding.detail.split(": ")[1]
                largest[attention][statistic] = max(largest[attention].get(statistic, 0.0), float(finding.value))
        if report.outcome is not Outcome.ACCEPT and report.decisive is not None:
            unproven.append(f"{number} ({attention}): {report.decisive.check}: {report.decisive.detail}")
    return {
        "size": node.size.name,
        "receipts": count,
        "tokens": tokens,
        "outcomes": dict(outcomes),
        "unproven": unproven,
        "largest": largest,
    }


def _as_of(receipt: Any, attention: str, nodes: dict[str, Any]) -> Any:
    """Half of the eager node's receipts say that SDPA proved them: a verifier measures with the class that is claimed, and on
    one machine equal kernels differ by nothing."""
    answer = receipt.answer
    if attention != "eager" or len(answer.prompt) % 2:
        return receipt
    from dataclasses import replace

    name = nodes["sdpa"].proof_class
    return nodes["sdpa"].sign(replace(receipt, answer=Answer(answer.prompt, answer.choices, name, answer.generation_class)))


def _calibrate(sizes: Mapping[str, int], version: str, out: Path) -> int:
    extremes = Extremes()
    for name, answers in sizes.items():
        drawn = calibrate(StudiedNode(STUDIED[name]), answers, extremes)
        print(f"{name}: {drawn} choices", file=sys.stderr, flush=True)
    place = f"{platform.machine()}, torch {torch.__version__}, one thread; sizes {', '.join(sizes)}"
    out.write_bytes(extremes.table(version, place).to_bytes())
    return 0


def _as_text(result: dict[str, Any]) -> str:
    if "deviations" not in result:
        return "\n".join(f"{name:10} {value}" for name, value in result.items())
    lengths = list(next(iter(result["deviations"].values())))
    lines = [
        f"found by one receipt of the {result['size']} model (rejected or unproven), answers of {', '.join(lengths)} tokens"
    ]
    for name, of in result["deviations"].items():
        cells = []
        for length in lengths:
            receipts, outcomes = of[length]["receipts"], of[length]["outcomes"]
            cells.append(f"{receipts - outcomes.get('accept', 0):3d}/{receipts:<3d} ({outcomes.get('reject', 0)} rejected)")
        lines.append(f"{name:42} {'  '.join(f'{cell:24}' for cell in cells)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
