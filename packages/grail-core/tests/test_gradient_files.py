"""Gradient work, section 7: an update file from a stranger is what it says, or a refusal with its path."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grail_core.gradient import codec, update_file
from grail_core.gradient.layout import Layout
from grail_core.gradient.update_file import assemble, check_streams, read_front, split
from grail_core.verification.gradient.similar import similar_pairs
from tooling.testing.gradient_mutants import mutated, told
from tooling.testing.gradient_states import SPEC, layout_of, spec_of, update

ROOT = Path(__file__).resolve().parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "gradient_codec.json").read_text(encoding="utf-8"))["vectors"]
LAYOUT = layout_of()
SIGNATURE = bytes(range(64))
HEADER = b'{"who":"somebody"}'
SKETCHES = bytes(range(64))  # 8 · L · rows of two sequences


def a_file(layout: Layout = LAYOUT) -> bytes:
    return assemble(HEADER, SIGNATURE, SKETCHES, update(layout, SPEC, 2))


def test_the_file_is_that_of_the_published_vectors() -> None:
    case = VECTORS["update_file"]
    spec = spec_of(chunk=case["chunk"], kept=case["kept"], sequence_length=case["sequence_length"])
    layout = Layout.of([(f"t{i}", (size,)) for i, size in enumerate(case["sizes"])], spec)
    streams = [bytes.fromhex(stream) for stream in case["streams"]]
    sketches, signature = bytes.fromhex(case["sketches"]), bytes.fromhex(case["signature"])
    raw = assemble(case["header"].encode(), signature, sketches, streams)
    assert raw.hex() == case["file"]
    read = split(raw, layout, spec, 1)
    assert (read.header.decode(), read.signature) == (case["header"], signature)
    assert list(read.streams) == streams
    assert read.body_digest.hex() == case["body_digest"]
    check_streams(read, layout)


def test_a_file_comes_apart_as_it_was_put_together() -> None:
    raw = a_file()
    read = split(raw, LAYOUT, SPEC, 2)
    assert (read.header, read.signature, read.sketches) == (HEADER, SIGNATURE, SKETCHES) == (*read_front(raw), SKETCHES)
    assert read.streams == update(LAYOUT, SPEC, 2)
    assert all(isinstance(stream, memoryview) for stream in read.streams), "nothing of a large file is copied"


def test_no_file_is_larger_than_a_seal_may_declare() -> None:
    for seed in range(4):
        streams = update(LAYOUT, SPEC, seed)
        largest = assemble(b"h" * update_file.MAX_HEADER, SIGNATURE, SKETCHES, streams)
        slack = sum(t.stream_most - len(s) for t, s in zip(LAYOUT.tensors, streams, strict=True))
        assert len(largest) + slack == update_file.most_bytes(LAYOUT, SPEC, 2)
    with pytest.raises(ValueError, match=r"^\$update: \d+ bytes, an update of this checkpoint has \d+ at most"):
        split(bytes(update_file.most_bytes(LAYOUT, SPEC, 2) + 1), LAYOUT, SPEC, 2)


AT_HEADER = 12 + len(HEADER) + 64
HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", r"^\$update: no update file"),
    "another magic": (lambda raw: b"GRAILUP2" + raw[8:], r"^\$update: no update file"),
    "ends in the header's length": (lambda raw: raw[:10], r"^\$update: the file ends in the length"),
    "a header of four billion bytes": (
        lambda raw: raw[:8] + b"\xff" * 4 + raw[12:],
        r"^\$update\.header: a length of 42949",
    ),
    "no header": (lambda raw: raw[:8] + bytes(4) + raw[12:], r"^\$update\.header: a length of 0"),
    "ends in the signature": (lambda raw: raw[: AT_HEADER - 1], r"^\$update: the file ends in its header or signature"),
    "ends in the sketches": (lambda raw: raw[: AT_HEADER + 10], r"^\$update\.body: 10 bytes"),
    "a stream of four billion bytes": (
        lambda raw: raw[: AT_HEADER + 64] + b"\xff" * 4 + raw[AT_HEADER + 68 :],
        r"^\$update\.streams\[0\]: 4294967295 bytes",
    ),
    "a byte more": (lambda raw: raw + b"\0", r"^\$update\.streams: \d+ bytes are announced"),
    "a byte less": (lambda raw: raw[:-1], r"^\$update\.streams: \d+ bytes are announced"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_lengths_that_no_file_has_are_refused(name: str) -> None:
    change, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message):
        split(change(a_file()), LAYOUT, SPEC, 2)


def test_a_header_or_signature_that_no_reader_takes_is_not_written() -> None:
    for header, signature in ((b"", SIGNATURE), (b"h" * (update_file.MAX_HEADER + 1), SIGNATURE), (HEADER, SIGNATURE[1:])):
        with pytest.raises(ValueError, match=r"^\$update\.(header|signature): \d+ bytes"):
            assemble(header, signature, SKETCHES, update(LAYOUT, SPEC, 2))


def hold_mutants_of_an_update(count: int, seed: int) -> None:
    """Each is refused with its path, or is the one form of what it says."""
    rng, raw, accepted = random.Random(seed), a_file(), 0
    for _ in range(count):
        changed = mutated(raw, rng)
        complaint = told(lambda changed=changed: check_streams(split(changed, LAYOUT, SPEC, 2), LAYOUT))  # type: ignore[misc]
        assert complaint.startswith("$update") or not complaint
        if complaint:
            continue
        accepted, read = accepted + 1, split(changed, LAYOUT, SPEC, 2)
        again = tuple(codec.pack(read.decode(LAYOUT, i)) for i in range(len(LAYOUT.tensors)))
        assert assemble(read.header, read.signature, read.sketches, again) == changed
    assert 0 < accepted < count


def test_a_mutant_of_an_update_is_refused_with_its_path_or_is_the_one_form_of_its_content() -> None:
    hold_mutants_of_an_update(10_000, seed=1)


def test_files_that_resemble_each_other_are_found_by_the_exact_cosine_of_what_they_send() -> None:
    """All chunks of this layout are drawn, so that the whole values say it as well."""
    streams = {0: update(LAYOUT, SPEC, 3), 1: update(LAYOUT, SPEC, 4)}
    streams[2] = (*streams[0][:-1], streams[1][-1])  # all tensors of the one but the last
    files = {uid: split(assemble(HEADER, SIGNATURE, SKETCHES, one), LAYOUT, SPEC, 2) for uid, one in streams.items()}

    def values(file: update_file.UpdateFile) -> dict[tuple[int, int], int]:
        sent = enumerate(file.decode(LAYOUT, i) for i in range(len(LAYOUT.tensors)))
        return {(i, int(at)): int(v) for i, one in sent for at, v in zip(one.positions(), one.decoded(), strict=True)}

    dense = {uid: values(file) for uid, file in files.items()}
    dots = {(a, b): sum(v * dense[b].get(at, 0) for at, v in dense[a].items()) for a in dense for b in dense}
    cosine = np.array([[dots[a, b] / (dots[a, a] * dots[b, b]) ** 0.5 for b in dense] for a in dense])
    assert cosine[0, 2] > 0.5 > cosine[0, 1]
    found = similar_pairs(files, LAYOUT, SPEC, bytes(32))
    assert found[0] == (2, int(1000 * cosine[0, 2]))
    assert found[2][0] == (0 if cosine[0, 2] > cosine[1, 2] else 1)
