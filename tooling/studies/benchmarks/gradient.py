"""`gradient`: how small and how fast pseudo-gradients are, beside what peers send and beside what there is to reach.

    hatch run bench gradient            a table; some eight minutes of processor time, most of them for losses and `own`
    hatch run bench gradient --json     one flat object
    hatch run bench gradient --quick    the same keys from few seeds, rounds and repeats: a look at it

Sizes are of streams with 64 of 4,096 values. `bytes_ratio_*` is a peer's bytes over ours at the same total error (what is not
sent included), the worst of Gauss, t(3) and a feedback buffer of a model that is trained in the run: ours get more values until
the error is the peer's. `…_same_k` is the ratio for the same number of values, whatever the error. `kept_error` is that of the
values sent, relative L2. Speeds are of one thread in its processor time, the best of several, in millions of parameters.
`bound_bits` is the entropy of the places, with signs and scales as they are; `copy_mparam_s` what copying the numbers takes.
`reject_us_per_kib` is the slowest of several files that are wrong in their last bytes only, or everywhere.

The rest is of the preset `tiny`, each key said where it is made: `gradient_costs` (a score, the checks, thirty rounds),
`gradient_loss` (the network beside one process), `gradient_own` (the test of own data beside the peers').
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from math import comb, log2, sqrt

import numpy as np
import torch

from grail_core.gradient import codec, merge
from grail_core.gradient.feedback import subtract
from grail_core.gradient.layout import Floats, Layout, TensorLayout
from grail_core.gradient.update_file import assemble, check_streams, sketch_bytes, split
from tooling.studies.benchmarks.gradient_costs import cost_figures, rounds_figures
from tooling.studies.benchmarks.gradient_loss import loss_figures
from tooling.studies.benchmarks.gradient_own import own_figures
from tooling.studies.benchmarks.gradient_peers import PEERS
from tooling.studies.benchmarks.gradient_workload import SPEC, feedback_buffer

Figures = dict[str, float]
Tensors = dict[str, Floats]

SIZE = 1 << 22
PEERS_MERGED = 8
REPEATS = 7


def measure(quick: bool = False) -> Figures:
    """Every figure of the benchmark, by its key."""
    random = np.random.default_rng(7)
    given = {
        "gauss": {"w": (random.standard_normal(1 << 20) * 1e-3).astype(np.float32)},
        "t3": {"w": (random.standard_t(3, 1 << 20) * 1e-3).astype(np.float32)},
        "real": feedback_buffer(),
    }
    figures: Figures = {}
    for name, tensors in given.items():
        figures |= {f"gradient.{key}.{name}": value for key, value in _sizes(tensors).items()}
    for key in ("bits_per_param.rice", *(f"bytes_ratio_{peer}{same}" for peer in PEERS for same in ("", "_same_k"))):
        of_all = [figures[f"gradient.{key}.{name}"] for name in given]
        figures[f"gradient.{key}"] = max(of_all) if key.startswith("bits") else min(of_all)
    figures |= _speeds()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for figures_of in (cost_figures, rounds_figures, loss_figures, own_figures):
            figures |= figures_of(quick)
    finally:
        torch.set_num_threads(threads)
    return figures | {"gradient.load_average": os.getloadavg()[0]}


def _sizes(tensors: Tensors) -> Figures:
    layout = _layout(tensors)
    size, sent, chunk = layout.size, SPEC.kept, SPEC.chunk
    ours, kept_error, _ = _ours(tensors, sent)
    bound = (log2(comb(chunk, sent)) + sent + 16) / chunk
    figures = {"bits_per_param.rice": 8 * ours / size, "bound_bits": bound, "kept_error": kept_error}
    for name, peer in PEERS.items():
        pieces = [peer(layout.tensors[i].flat(values), layout.tensors[i]) for i, values in enumerate(tensors.values())]
        error = sum(piece.error for piece in pieces)
        theirs = sum(piece.size for piece in pieces)
        figures[f"bytes_ratio_{name}"] = theirs / _bytes_at(tensors, error)
        figures[f"bytes_ratio_{name}_same_k"] = theirs / ours
    return figures


def _bytes_at(tensors: Tensors, error: float) -> float:
    """Our bytes with so few values that the squared error is `error` at most."""
    low, high = 0, SPEC.chunk // 2 + 1  # so few are not enough, so many are
    while high - low > 1:
        middle = (low + high) // 2
        if _ours(tensors, middle)[2] <= error:
            high = middle
        else:
            low = middle
    return _ours(tensors, high)[0] if high <= SPEC.chunk // 2 else float("inf")


def _ours(tensors: Tensors, kept: int) -> tuple[int, float, float]:
    """Bytes, relative error of the values sent, squared error of all."""
    size, error, energy, missed = 0, 0.0, 0.0, 0.0
    for tensor in _layout(tensors, kept).tensors:
        values = tensor.flat(tensors[tensor.name])
        sent = codec.quantised(values, tensor)
        rest, at = values.copy(), sent.positions()
        subtract(rest, sent)
        size += len(codec.pack(sent))
        missed += float(np.square(rest, dtype=np.float64).sum())
        error += float(np.square(rest[at], dtype=np.float64).sum())
        energy += float(np.square(values[at], dtype=np.float64).sum())
    return size, sqrt(error / energy), missed


def _layout(tensors: Tensors, kept: int = SPEC.kept) -> Layout:
    cut = tuple((name, values.shape) for name, values in tensors.items())
    layout = Layout.of(cut, SPEC)
    if kept == SPEC.kept:
        return layout
    return Layout(tuple(TensorLayout(t.name, t.shape, t.chunk, kept, t.first_chunk) for t in layout.tensors))


def _speeds() -> Figures:
    random = np.random.default_rng(8)
    tensor = TensorLayout("w", (SIZE,), SPEC.chunk, SPEC.kept, 0)
    values = (random.standard_normal(SIZE) * 1e-3).astype(np.float32)
    others = [(random.standard_normal(SIZE) * 1e-3).astype(np.float32) for _ in range(PEERS_MERGED)]
    streams = [codec.pack(codec.quantised(other, tensor)) for other in others]
    places, stream, copy = codec.select(values, tensor), streams[0], np.empty_like(values)
    return {
        "gradient.encode_mparam_s": _mparam_s(lambda: codec.encode(values, places, tensor)),
        "gradient.decode_mparam_s": _mparam_s(lambda: codec.decode(stream, tensor).decoded()),
        "gradient.select_mparam_s": _mparam_s(lambda: codec.select(values, tensor)),
        "gradient.merge_mparam_s_peer": _mparam_s(
            lambda: merge.merge_tensor(values, streams, tensor, 4_000_000), updates=PEERS_MERGED
        ),
        "gradient.copy_mparam_s": _mparam_s(lambda: np.copyto(copy, values)),
        "gradient.reject_us_per_kib": _reject(values, stream),
    }


def _reject(values: Floats, stream: bytes) -> float:
    """Of one large tensor and a hundred small ones, as a checkpoint has them."""
    names = [("w", (SIZE,)), *((f"x{i:03}", (2048,)) for i in range(100))]
    layout = Layout.of(names, SPEC)
    small = codec.pack(codec.quantised(values[:2048], layout.tensors[1]))
    sketches = bytes(sketch_bytes(SPEC, 1))
    unary = 2 * layout.tensors[0].chunks + layout.tensors[0].values // 8 + 4
    bodies = {
        "last byte": [stream, *[small] * 99, small[:-1] + b"\0"],
        "end of the large one": [stream[:-1] + b"\0", *[small] * 100],
        "all ones": [stream[:unary] + b"\xff" * (len(stream) - unary), *[small] * 100],
        "all zeros": [stream[:unary] + bytes(len(stream) - unary), *[small] * 100],
        "noise": [stream[:unary] + np.random.default_rng(1).bytes(len(stream) - unary), *[small] * 100],
    }
    slowest = 0.0
    for body in bodies.values():
        raw = assemble(b"{}", bytes(64), sketches, body)
        seconds = _seconds(lambda raw=raw: _refuse(raw, layout))  # type: ignore[misc]
        slowest = max(slowest, seconds * 1e6 / (len(raw) / 1024))
    return slowest


def _refuse(raw: bytes, layout: Layout) -> None:
    try:
        check_streams(split(raw, layout, SPEC, 1), layout)
    except ValueError:
        return
    raise AssertionError("a file that is wrong was taken")


def _mparam_s(work: Callable[[], object], updates: int = 1) -> float:
    return updates * SIZE / 1e6 / _seconds(work)


def _seconds(work: Callable[[], object]) -> float:
    """Processor time of this thread, the best of several; the first run compiles."""
    work()
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.thread_time()
        work()
        best = min(best, time.thread_time() - begun)
    return best
