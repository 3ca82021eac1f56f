"""Two good receipts as JSON documents, and what a reader says of one that was changed: for tests of receipts."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest

from grail_core.inference.receipts import Receipt
from tooling.testing.plain_receipts import ordered_receipt, unsigned_receipt

UNSIGNED, ORDERED = unsigned_receipt(), ordered_receipt()
GOOD = [json.loads(receipt.to_bytes()) for receipt in (UNSIGNED, ORDERED)]
VOCABULARY = UNSIGNED.model.vocabulary_size


def read(document: Any) -> Receipt:
    return Receipt.from_bytes(json.dumps(document).encode())


def refusal(document: Any) -> str:
    with pytest.raises(ValueError, match=r"^\$receipt") as caught:
        read(document)
    return str(caught.value)


def with_member(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def shown(path: tuple[str | int, ...]) -> str:
    return "$receipt" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


ARRAYS = [
    ("order", "features"),
    ("features", "body"),
    ("answer", "prompt"),
    ("answer", "choices", 0, "completion"),
    ("answer", "choices", 0, "sketches"),
    ("answer", "choices", 0, "logprobs"),
]
"""Where a receipt holds binary data."""
