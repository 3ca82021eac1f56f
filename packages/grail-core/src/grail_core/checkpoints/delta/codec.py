"""The delta codec: from one set of named tensors to another, bit for bit, near the entropy of what changed.

`encode` yields frames, `decode` makes the new tensors beside the old ones, `apply` turns the old ones into the new ones in
place. `apply` decodes and checks every frame in scratch memory before it writes the first weight, so that a failed one leaves
the model bit-identical. Only bits are looked at: NaN payloads, −0.0 and integer types come through unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np

from grail_core.checkpoints.delta.blockcode import decode_blocks, encode_blocks
from grail_core.checkpoints.delta.digests import (
    BLOCK_BYTES,
    StateDigests,
    block,
    block_count,
    block_digest,
    digest_state,
    worker_threads,
)
from grail_core.checkpoints.delta.frames import (
    FRAME_BYTES,
    HINT_BYTES,
    BlockRef,
    Frame,
    LayoutChange,
    Mode,
    Profile,
    blocks_of,
    frame_digest,
    read_frames,
)
from grail_core.checkpoints.delta.tensors import DTYPES_BY_CODE, Bits, DType, Layout, RawState, RawTensor, name_order
from grail_core.errors import CheckpointError
from grail_core.protocol.types import Digest

__all__ = ["Check", "Frame", "Profile", "apply", "decode", "encode", "read_frames", "result_layouts"]

A = TypeVar("A")
B = TypeVar("B")


class Check(Enum):
    """What a decoder hashes."""

    RESULT = (
        "result"  # every block of the result, and the root; a right result needs a right base, which is hashed to find blame
    )
    NOTHING = "nothing"  # for who hashes the whole result afterwards


def encode(
    base: RawState,
    new: RawState,
    profile: Profile,
    *,
    base_digests: StateDigests | None = None,
    new_digests: StateDigests | None = None,
    threads: int | None = None,
) -> Iterator[Frame]:
    """Frames that turn `base` into `new`; the first is the layout frame. Blocks that did not change are in no frame.

    Args:
        base, new: from `tensors.raw_state`; neither may change while frames are drawn.
        base_digests, new_digests: of these states, where they are known already; hashed here otherwise.
        threads: for coding; None: the CPUs at hand.
    """
    base_digests = base_digests or digest_state(base, threads=threads)
    new_digests = new_digests or digest_state(new, threads=threads)
    base_names, _ = untied(base)
    names, aliases = untied(new)
    same = {name for name in names if name in base_names and base[name].layout == new[name].layout}
    change = LayoutChange(
        profile=profile,
        removed=frozenset(name for name in base_names if name not in same),
        added={name: new[name].layout for name in names if name not in same},
        aliases=aliases,
    )
    yield Frame(Mode.LAYOUT, 0, (), 0, base_digests.root, new_digests.root, change.to_payload())

    def make(dtype: DType, batch: list[tuple[int, str, int]]) -> Frame:
        old = [block(base[n], i) if n in same else np.zeros_like(block(new[n], i)) for _, n, i in batch]
        mode, changes, payload = encode_blocks(dtype, old, [block(new[n], i) for _, n, i in batch], profile)
        before = [base_digests.blocks[n][i] if n in same else Digest(bytes(32)) for _, n, i in batch]
        after = [new_digests.blocks[n][i] for _, n, i in batch]
        refs = tuple(
            BlockRef(t, i, old_digest[:HINT_BYTES], new_digest[:HINT_BYTES])
            for (t, _, i), old_digest, new_digest in zip(batch, before, after, strict=True)
        )
        return Frame(mode, dtype.code, refs, changes, frame_digest(before), frame_digest(after), payload)

    changed = (
        (number, name, index)
        for number, name in enumerate(names)
        for index in range(block_count(new[name].layout))
        if name not in same or base_digests.blocks[name][index] != new_digests.blocks[name][index]
    )
    batches = _batches(changed, {name: new[name].layout for name in names})
    yield from _ahead(lambda item: make(*item), batches, threads or worker_threads())


def decode(
    base: RawState,
    frames: Iterable[Frame],
    *,
    check: Check = Check.RESULT,
    expected_root: Digest | None = None,
    allocate: Callable[[str, Layout], RawTensor] | None = None,
    threads: int | None = None,
) -> dict[str, RawTensor]:
    """The new tensors, in name order; `base` is only read. Tied tensors are one object under several names.

    Args:
        expected_root: the weights root that a manifest names; None: whatever the delta says it leads to.
        allocate: where each new tensor's memory comes from (a mapped file, say); its contents are overwritten.

    Raises:
        CheckpointError: the base is not the one this delta was made from, or the frames are not those that were made; the
            message names the tensor.
    """
    stream = iter(frames)
    plan = _plan(base, next(stream, None), expected_root)
    make = allocate or (lambda _name, layout: RawTensor(layout, np.empty(layout.elements, layout.dtype.bits)))
    result = {name: make(name, layout) for name, layout in plan.layouts.items()}
    pool_size = threads or worker_threads()

    def step(item: _Numbered) -> dict[tuple[str, int], Digest]:
        where, frame, targets = item
        old = [block(base[n], i) if n in plan.same else None for n, i in targets.names]
        return _decode_checked(frame, targets, old, [block(result[n], i) for n, i in targets.names], check, where)

    coded = list(_ahead(step, plan.numbered(stream), pool_size))
    _fill_rest(plan, base, result)
    if check is Check.RESULT:
        _check_root(plan, result, coded, pool_size)
    for alias, name in plan.change.aliases.items():
        result[alias] = result[name]
    return {name: result[name] for name in sorted(result, key=name_order)}


def apply(
    state: MutableMapping[str, RawTensor],
    frames: Callable[[], Iterable[Frame]],
    *,
    expected_root: Digest | None = None,
    threads: int | None = None,
) -> None:
    """Turn `state` into the new tensors in place; memory beyond the model's is a few frames and the tensors added.

    Args:
        state: from `tensors.raw_state`; entries are added, removed or re-tied where the delta says so.
        frames: called twice, once to check and once to write: the same frames both times.
        expected_root: the weights root that a manifest names; None: whatever the delta says it leads to.

    Raises:
        CheckpointError: as `decode`; nothing was written.
    """
    stream = iter(frames())
    layout_frame = next(stream, None)
    plan = _plan(state, layout_frame, expected_root)
    added = {name: RawTensor.empty(layout) for name, layout in plan.layouts.items() if name not in plan.same}
    pool_size = threads or worker_threads()

    def verify(item: _Numbered) -> tuple[Digest, dict[tuple[str, int], Digest]]:
        where, frame, targets = item
        old = [block(state[n], i) if n in plan.same else None for n, i in targets.names]
        sizes = [o if o is not None else block(added[n], i) for o, (n, i) in zip(old, targets.names, strict=True)]
        scratch = [np.empty_like(bits) for bits in sizes]
        return frame.after, _decode_checked(frame, targets, old, scratch, Check.RESULT, where)

    verified = list(_ahead(verify, plan.numbered(stream), pool_size))
    _check_root(plan, {**state, **added}, [coded for _, coded in verified], pool_size)
    checked = [after for after, _ in verified]
    plan = _plan(state, layout_frame, expected_root)

    def write(item: _Numbered) -> None:
        where, frame, targets = item
        blocks = [block(state[n] if n in plan.same else added[n], i) for n, i in targets.names]
        decode_blocks(frame, targets.dtype, blocks, blocks, where=where)

    again = iter(frames())
    next(again)
    same = (frame for number, frame in enumerate(again, 1) if _same(checked, number, frame))
    list(_ahead(write, plan.numbered(same), pool_size))
    for name in [name for name in state if name not in plan.layouts or name in added]:
        del state[name]
    state.update(added)
    for alias, name in plan.change.aliases.items():
        state[alias] = state[name]


def result_layouts(base: RawState, frames: Iterable[Frame]) -> dict[str, Layout]:
    """Layouts of the untied tensors that a delta leads to, from its first frame alone. Errors: as `decode`."""
    return dict(_plan(base, next(iter(frames), None), None).layouts)


def untied(state: RawState) -> tuple[list[str], dict[str, str]]:
    """Names in order without those that share all their memory with an earlier one, and these with that one's name."""
    first: dict[int, str] = {}
    names, aliases = [], {}
    for name in sorted(state, key=name_order):
        owner = first.setdefault(id(state[name]), name)
        if owner == name:
            names.append(name)
        else:
            aliases[name] = owner
    return names, aliases


@dataclass(frozen=True)
class _Targets:
    dtype: DType
    names: tuple[tuple[str, int], ...]  # tensor, block


_Numbered = tuple[str, Frame, _Targets]


@dataclass
class _Plan:
    change: LayoutChange
    layouts: dict[str, Layout]  # of the result, untied
    same: frozenset[str]  # coded against the base's tensor of the same name
    order: list[str]
    root: Digest  # of the result
    taken: set[tuple[int, int]]

    def numbered(self, frames: Iterable[Frame]) -> Iterator[_Numbered]:
        """Each frame with its name for messages and its tensors; drawn by one thread, so that `taken` needs no lock."""
        for number, frame in enumerate(frames, 1):
            yield f"frame {number}", frame, self._resolve(frame, f"frame {number}")

    def _resolve(self, frame: Frame, where: str) -> _Targets:
        """The tensors a frame is about, checked: known, of its dtype, each block once, within the size of a frame."""
        dtype = DTYPES_BY_CODE.get(frame.dtype)
        if dtype is None or not frame.blocks or (frame.mode is Mode.PLANES and frame.changes):
            raise CheckpointError("the frame's header contradicts itself", where=where)
        names, total = [], 0
        for ref in frame.blocks:
            if ref.tensor >= len(self.order):
                raise CheckpointError(f"there is no tensor {ref.tensor} in the result", where=where)
            name = self.order[ref.tensor]
            layout = self.layouts[name]
            if layout.dtype is not dtype or ref.block >= block_count(layout):
                raise CheckpointError("the frame does not fit the tensor's layout", where=f"{where}, {name}")
            if (ref.tensor, ref.block) in self.taken:
                raise CheckpointError("a block is coded twice", where=f"{where}, {name}")
            self.taken.add((ref.tensor, ref.block))
            total += min(BLOCK_BYTES, layout.nbytes - ref.block * BLOCK_BYTES)
            names.append((name, ref.block))
        if total > FRAME_BYTES:
            raise CheckpointError("the frame covers more than a frame may", where=where)
        return _Targets(dtype, tuple(names))


def _plan(base: RawState, frame: Frame | None, expected_root: Digest | None) -> _Plan:
    if frame is None or frame.mode is not Mode.LAYOUT:
        raise CheckpointError("the delta does not begin with its layout frame")
    if expected_root is not None and frame.after != expected_root:
        raise CheckpointError(
            "the delta leads to other weights than the manifest names",
            where=f"root {frame.after.hex()[:16]}…, the manifest's is {expected_root.hex()[:16]}…",
            hint="the trainer signed a manifest and a delta that do not belong together; report the checkpoint",
        )
    change = LayoutChange.from_payload(frame.payload, where="layout frame")
    base_names, _ = untied(base)
    layouts = change.result_layouts({name: base[name].layout for name in base_names})
    return _Plan(change, layouts, frozenset(n for n in layouts if n not in change.added), list(layouts), frame.after, set())


def _fill_rest(plan: _Plan, base: RawState, result: Mapping[str, RawTensor]) -> None:
    """Blocks in no frame: the base's, or zeros where there is none."""
    for number, (name, layout) in enumerate(plan.layouts.items()):
        for index in range(block_count(layout)):
            if (number, index) not in plan.taken:
                target = block(result[name], index)
                if name in plan.same:
                    np.copyto(target, block(base[name], index))
                else:
                    target[:] = 0


def _decode_checked(
    frame: Frame, targets: _Targets, base: list[Bits | None], blocks: list[Bits], check: Check, where: str
) -> dict[tuple[str, int], Digest]:
    """Decode into `blocks` and hash them; if anything is wrong, say whether it is the base's fault, and which tensor's."""
    start = [old if old is not None else np.zeros_like(new) for old, new in zip(base, blocks, strict=True)]
    try:
        decode_blocks(frame, targets.dtype, start, blocks, where=where)
    except CheckpointError:
        _blame_base(frame, targets, base, where)
        raise
    if check is Check.NOTHING:
        return {}
    digests = [block_digest(bits) for bits in blocks]
    if frame_digest(digests) != frame.after:
        _blame_base(frame, targets, base, where)
        wrong = _first_wrong(targets, digests, [ref.after for ref in frame.blocks])
        raise CheckpointError(
            f"tensor {wrong} does not come out as published", where=where, hint="the delta is damaged; fetch it again"
        )
    return dict(zip(targets.names, digests, strict=True))


def _blame_base(frame: Frame, targets: _Targets, base: list[Bits | None], where: str) -> None:
    digests = [block_digest(bits) if bits is not None else Digest(bytes(32)) for bits in base]
    if frame_digest(digests) != frame.before:
        wrong = _first_wrong(targets, digests, [ref.before for ref in frame.blocks])
        raise CheckpointError(
            f"tensor {wrong} is not what this delta starts from",
            where=where,
            hint="the model held here is not the delta's parent; load the checkpoint from disk or fetch it in full",
        )


def _check_root(plan: _Plan, state: RawState, coded: list[dict[tuple[str, int], Digest]], threads: int) -> None:
    """Hash the blocks that are in no frame too, and compare the whole state's root with the layout frame's."""
    known = {place: digest for frame in coded for place, digest in frame.items()}
    places = [(name, i) for name, layout in plan.layouts.items() for i in range(block_count(layout))]
    rest = [place for place in places if place not in known]
    known.update(zip(rest, _ahead(lambda place: block_digest(block(state[place[0]], place[1])), rest, threads), strict=True))
    blocks = {name: tuple(known[name, i] for i in range(block_count(layout))) for name, layout in plan.layouts.items()}
    for alias, name in plan.change.aliases.items():
        blocks[alias] = blocks[name]
    layouts = {name: plan.layouts[plan.change.aliases.get(name, name)] for name in sorted(blocks, key=name_order)}
    if StateDigests(layouts, blocks).root != plan.root:
        raise CheckpointError(
            "the weights do not have the root that this delta leads to: a tensor it leaves alone is another than in its base",
            hint="the model held here is not the delta's parent; load the checkpoint from disk or fetch it in full",
        )


def _first_wrong(targets: _Targets, digests: list[Digest], hints: list[bytes]) -> str:
    for (name, _), digest, hint in zip(targets.names, digests, hints, strict=True):
        if digest[:HINT_BYTES] != hint:
            return name
    return "one of " + ", ".join(dict.fromkeys(name for name, _ in targets.names))


def _same(checked: list[Digest], number: int, frame: Frame) -> bool:
    if number > len(checked) or checked[number - 1] != frame.after:
        raise AssertionError("the frames of the second pass are not those of the first")
    return True


def _batches(
    changed: Iterable[tuple[int, str, int]], layouts: Mapping[str, Layout]
) -> Iterator[tuple[DType, list[tuple[int, str, int]]]]:
    """Group blocks of one dtype, in order, into frames of at most FRAME_BYTES."""
    open_: dict[str, tuple[list[tuple[int, str, int]], int]] = {}
    sizes: dict[str, dict[int, int]] = {}
    for item in changed:
        layout = layouts[item[1]]
        if item[1] not in sizes:
            sizes = {item[1]: dict(blocks_of(layout))}
        size = sizes[item[1]][item[2]]
        batch, total = open_.get(layout.dtype.name, ([], 0))
        if total + size > FRAME_BYTES:
            yield layout.dtype, batch
            batch, total = [], 0
        open_[layout.dtype.name] = ([*batch, item], total + size)
    for batch, _ in open_.values():
        yield layouts[batch[0][1]].dtype, batch


def _ahead(function: Callable[[A], B], items: Iterable[A], threads: int) -> Iterator[B]:
    """Map in order with a few items in flight. The first error is raised once those in flight have ended."""
    source = iter(items)
    if threads == 1:
        yield from map(function, source)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[B]] = deque()
        for item in source:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
