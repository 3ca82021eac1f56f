"""`inference`: what a receipt weighs, what checking and refusing one takes, and what proving costs a node.

    hatch run bench inference          a table
    hatch run bench inference --json   one flat object

The model is the study's trained one of 4 layers x 128, one thread.
`infer.receipt_bytes_per_token`: what tokens and sketches of a
completion take in a receipt without claimed log-probabilities; `.receipt_fixed_bytes`: all the rest of it, prompt and question
too. `infer.verify_s`: `check_receipt` of one answer of 64 tokens to a prompt of about 64, the model loaded;
`infer.verify_generate_ratio` is how many times as long drawing that answer alone took, `.long` of 256 tokens.
`infer.throughput_ratio`: tokens a second of 16 requests that are served over HTTP without proofs, over the bare generator's on
the same requests in one closed batch; `.proved` with proofs, signatures and kept receipts, `.proved.long` of up to 256 tokens.
`infer.ttft_overhead_ms`: what a stream's first text takes over HTTP, alone, beyond the bare generator's first token (medians).
`infer.reject_us`: the slowest of the malformed receipts of the attack table up to 64 KiB, and `.large` up to 8 MiB. Each but
the first token's is the smallest of several runs by turns.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch

from grail_core.inference.answers import token_bytes
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_core.inference.typed_data import order_digest
from grail_core.protocol.findings import Outcome
from grail_core.verification.receipt import check_receipt
from tooling.adversaries.hostile_receipts import malformed
from tooling.adversaries.size import STUDIED
from tooling.studies.benchmarks.serving import measure_serving
from tooling.studies.receipts.node import StudiedNode

RUNS: Final = 5
_SMALL: Final = 64 << 10


def measure() -> dict[str, float | str]:
    torch.set_num_threads(1)
    node = StudiedNode(STUDIED["4x128"])
    figures: dict[str, float | str] = {}
    short, long = (node.full_orders(1, tokens)[0] for tokens in (64, 256))
    receipts = {tokens: node.honest.answer([order])[0] for tokens, order in ((64, short), (256, long))}
    raw = receipts[64].to_bytes()
    (choice,) = receipts[64].answer.choices
    own = len(base64.b64encode(token_bytes(choice.completion))) + len(base64.b64encode(choice.sketches[-8 * 64 :]))
    figures["infer.receipt_bytes_per_token"] = own / 64
    figures["infer.receipt_fixed_bytes"] = float(len(raw) - own)
    for name, order, tokens in (("", short, 64), (".long", long, 256)):
        checked, drawn = _least(partial(_check, node, receipts[tokens].to_bytes()), partial(node.honest.draw, [order]))
        figures[f"infer.verify_s{name}"] = checked
        figures[f"infer.verify_generate_ratio{name}"] = drawn / checked
    figures |= measure_serving(node, _least)
    for name, most, least in (("", _SMALL, 0), (".large", 8 << 20, _SMALL)):
        hostile = malformed(receipts[64]) | {"long features, forged signature": _long_and_forged(receipts[64])}
        cases = {case: raw for case, raw in hostile.items() if least < len(raw) <= most}
        times = {case: _least(partial(_refuse, raw))[0] for case, raw in cases.items()}
        worst = max(times, key=lambda case: times[case])
        figures[f"infer.reject_us{name}"], figures[f"infer.reject_worst{name}"] = 1e6 * times[worst], worst
    return figures


def _refuse(raw: bytes) -> None:
    order_digest.cache_clear()  # a second look at the same receipt costs less
    check_receipt(raw, seed=bytes(32))


def _long_and_forged(receipt: Receipt) -> bytes:
    """All in order but the node's signature, which needs the digest of an order with 22 KiB of features."""
    features = Features(prompt="a" * 22_000).to_bytes()
    sub = replace(receipt.order.subscription, features=features)
    return replace(receipt, features=features, order=replace(receipt.order, subscription=sub)).to_bytes()


def _check(node: StudiedNode, raw: bytes) -> None:
    report = check_receipt(raw, seed=bytes(32), model=node.at_hand)
    if report.outcome is not Outcome.ACCEPT:
        raise AssertionError(f"an honest receipt: {report.decisive}")


def _least(*runs: Callable[[], Any]) -> list[float]:
    """The smallest wall time of each, in turns; the first turn is not counted."""
    best = [float("inf")] * len(runs)
    for turn in range(RUNS + 1):
        for index, run in enumerate(runs):
            started = time.perf_counter()
            run()
            if turn:
                best[index] = min(best[index], time.perf_counter() - started)
    return best
