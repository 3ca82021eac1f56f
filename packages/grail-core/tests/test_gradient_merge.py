"""Gradient work, section 12: whoever merges the same updates, in any order, with any number of threads, gets the same bits."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from grail_core.gradient import arrays, codec, kernels, loops, merge, minifloat
from grail_core.gradient.layout import Floats, Layout
from grail_core.gradient.roots import root_of
from tooling.testing import plain_gradient as plain
from tooling.testing.gradient_states import SPEC, layout_of, spec_of, state, update
from tooling.testing.vectors.gradient import Seeded

ROOT = Path(__file__).resolve().parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "gradient_codec.json").read_text(encoding="utf-8"))["vectors"]


def seeded(given: dict[str, Any], size: int) -> Floats:
    numbers = Seeded(bytes.fromhex(given["seed"]), given["least"], given["spread"]).numbers(size)
    return np.array(numbers, np.float32)


@pytest.mark.parametrize("way", [kernels, arrays], ids=["compiled", "numpy"])
def test_merges_and_scored_weights_are_those_of_the_published_vectors(way: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "add", way.add)
    for case in VECTORS["merges"]:
        spec = spec_of(chunk=case["chunk"], kept=case["kept"], score_step=case["score_step"])
        layout = Layout.of([("w", (case["size"],))], spec)
        theta = {"w": seeded(case["theta"], case["size"])}
        updates = [(bytes.fromhex(stream),) for stream in case["streams"]]
        norms = [merge.norms2(one, layout) for one in updates]
        most = merge.medians(norms)
        assert [str(norm) for (norm,) in norms] == case["norms2"]
        assert [merge.clip(norm, most[0]) for (norm,) in norms] == case["clips"]
        assert dict(merge.merge(theta, updates, layout, case["rate"]))["w"].tobytes().hex() == case["merged"]
        for one, scored in zip(updates, case["scored"], strict=True):
            assert dict(merge.apply_one(theta, one, most, layout, spec))["w"].tobytes().hex() == scored


def test_neither_the_order_of_updates_nor_threads_change_a_bit() -> None:
    layout = layout_of([("a", (70_001,)), ("b", (1,)), ("c", (3, 300)), ("d", (64,))])
    theta = state(layout, 1, 0.02)
    updates = [update(layout, SPEC, seed, scale) for seed, scale in ((2, 1e-3), (3, 1e-3), (4, 0.5), (5, 1e-9))]
    roots = {
        root_of(layout, dict(merge.merge(theta, order, layout, 4_000_000)))
        for order in itertools.islice(itertools.permutations(updates), 0, None, 5)
    }
    for threads in (1, 4):
        with ThreadPoolExecutor(threads) as pool:
            merged = pool.map(
                lambda at: merge.merge_tensor(
                    theta[layout.tensors[at].name], [one[at] for one in updates], layout.tensors[at], 4_000_000
                ),
                range(len(layout.tensors)),
            )
            names = [tensor.name for tensor in layout.tensors]
            roots.add(root_of(layout, dict(zip(names, merged, strict=True))))
    assert len(roots) == 1


def test_a_large_tensor_merged_in_parts_is_the_plain_merge() -> None:
    layout = layout_of([("w", (66_000,))])
    updates = [update(layout, SPEC, seed, 10.0**-seed) for seed in (2, 3, 4)]
    sent = [plain.decoded(streams[0], 66_000, SPEC.chunk, SPEC.kept) for streams in updates]
    theta = state(layout, 1)
    merged = dict(merge.merge(theta, updates, layout, 700_000))["w"]
    assert merged.tolist() == plain.merged(theta["w"].tolist(), sent, 700_000)


def test_sixty_four_updates_at_the_largest_value_neither_overflow_nor_round() -> None:
    layout = layout_of([("w", (64,))])
    streams = (codec.encode(np.full(64, -1e38, np.float32), np.arange(4, dtype=np.uint16), layout.tensors[0]),)
    assert codec.decode(streams[0], layout.tensors[0]).scales.tolist() == [minifloat.MOST]
    theta = {"w": np.zeros(64, np.float32)}
    merged = dict(merge.merge(theta, [streams] * 64, layout, 64_000_000))["w"]
    largest = plain.SCALES[-1]
    assert merged[:5].tolist() == [float(np.float32(64 * largest * 2.0**-40))] * 4 + [0.0]
    assert merge.norms2(streams, layout) == (4 * largest**2,)


def test_one_update_is_not_clipped_and_few_never_overshoot() -> None:
    layout = layout_of()
    theta, alone = state(layout, 1), update(layout, SPEC, 2)
    whole = dict(merge.merge(theta, [alone], layout, 4_000_000))
    assert root_of(layout, whole) == root_of(layout, dict(merge.merge(theta, [alone], layout, 1_000_000)))
    for i, tensor in enumerate(layout.tensors):
        sent = codec.decode(alone[i], tensor)
        expected = tensor.flat(theta[tensor.name]).astype(np.float64)
        expected[sent.positions()] -= sent.decoded() * 2.0**-40
        assert (tensor.flat(whole[tensor.name]) == expected.astype(np.float32)).all()


def test_a_giant_pulls_no_tensor_further_than_the_median_does() -> None:
    layout = layout_of()
    theta = {name: np.zeros_like(values) for name, values in state(layout, 1).items()}
    honest, giant = [update(layout, SPEC, seed) for seed in (2, 3)], update(layout, SPEC, 4, 0.5)
    most = merge.medians([merge.norms2(one, layout) for one in (*honest, giant)])
    pulled = dict(merge.apply_one(theta, giant, most, layout, spec_of(score_step=1000)))
    for tensor, norm in zip(layout.tensors, most, strict=True):
        moved = np.square(tensor.flat(pulled[tensor.name]).astype(np.float64)).sum() * 2.0**80
        assert 0.97 * norm < moved <= 1.0001 * norm, "the clip is rounded down, to parts of 2¹⁶"


def test_updates_of_zeros_move_nothing_and_clip_everything_to_nothing_where_they_are_the_median() -> None:
    layout = layout_of()
    theta, zeros = state(layout, 1), update(layout, SPEC, 2, 0.0)
    assert merge.norms2(zeros, layout) == (0, 0, 0, 0)
    for updates in ([zeros], [zeros, update(layout, SPEC, 3)], [zeros, zeros, update(layout, SPEC, 3)]):
        assert root_of(layout, dict(merge.merge(theta, updates, layout, 10**6))) == root_of(layout, theta)


def test_what_cannot_be_merged_is_refused_by_name() -> None:
    layout, theta = layout_of(), state(layout_of(), 1)
    good = update(layout, SPEC, 2)
    broken = (*good[:2], good[2][:-1], good[3])
    with pytest.raises(ValueError, match=r"^\$updates\[1\]\.streams\[2\]"):
        dict(merge.merge(theta, [good, broken], layout, 10**6))
    with pytest.raises(ValueError, match=r"^\$update\.streams\[2\]"):
        merge.norms2(broken, layout)
    for count in (0, 65):
        with pytest.raises(ValueError, match=f"^{count} updates cannot be merged"):
            dict(merge.merge(theta, [good] * count, layout, 10**6))
    with pytest.raises(ValueError, match="3 streams"):
        dict(merge.merge(theta, [good[:3]], layout, 10**6))
    with pytest.raises(ValueError, match="nothing has no median"):
        merge.median([])


ALONE = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "httpx", "boto3", "pyarrow"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from grail_core.gradient.merge import merge
from grail_core.gradient.roots import root_of
from tooling.testing.gradient_states import SPEC, layout_of, state, update
layout = layout_of()
updates = [update(layout, SPEC, seed) for seed in (2, 3, 4)]
print(root_of(layout, dict(merge(state(layout, 1), updates, layout, 2_000_000))).hex())
"""


def test_anybody_merges_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    layout = layout_of()
    updates = [update(layout, SPEC, seed) for seed in (4, 2, 3)]
    assert done.stdout.strip() == root_of(layout, dict(merge.merge(state(layout, 1), updates, layout, 2_000_000))).hex()
