"""A layout as a picture of text: a box for each device, in it what runs there."""

from __future__ import annotations

from grail_miner.layout import Layout

_WIDTH = 36  # of a box's inside
_BESIDE = 3  # boxes in a line of the picture


def picture(layout: Layout) -> str:
    """Lines of at most 118 characters. Devices of the CPU and of somebody else's server have a box of their own."""
    boxes: dict[str, list[str]] = {f"GPU {index}": [] for index in range(layout.visible)}
    ranks = len(layout.generation_gpus)
    for rank, gpu in enumerate(layout.generation_gpus):
        part = f", rank {rank} of {ranks}" if ranks > 1 else ""
        boxes[f"GPU {gpu}"].append(f"{layout.backend} server{part} ({round(100 * layout.memory_share)} %)")
    if layout.url:
        boxes.setdefault(layout.url, []).append(f"{layout.backend}, run by somebody else")
    elif not layout.generation_gpus:
        here = f"{layout.backend} in process" if layout.in_process else f"{layout.backend} server"
        boxes.setdefault(_box(layout.generation_device or "cpu"), []).append(f"generation: {here}")
    for number, device in enumerate(layout.workers.devices):
        boxes.setdefault(_box(device), []).append(_worker(layout, number))
    drawn = [_drawn(title, lines) for title, lines in boxes.items()]
    rows = [_side_by_side(drawn[start : start + _BESIDE]) for start in range(0, len(drawn), _BESIDE)]
    return "\n".join(rows)


def _worker(layout: Layout, number: int) -> str:
    if layout.shared_model:
        return "proofs: the same weights"
    if layout.workers.kind == "in process":
        return "proofs: in the miner's process"
    kind = "process" if layout.workers.kind == "processes" else "thread"
    return f"proofs: worker {number + 1} of {len(layout.workers.devices)}, a {kind}"


def _box(device: str) -> str:
    kind, _, index = device.partition(":")
    return f"GPU {index or 0}" if kind == "cuda" else device.upper()


def _drawn(title: str, lines: list[str]) -> list[str]:
    name = title if len(title) <= _WIDTH - 3 else title[: _WIDTH - 4] + "…"
    inside = [line if len(line) <= _WIDTH - 2 else line[: _WIDTH - 3] + "…" for line in lines or ["(nothing)"]]
    top = f"┌─ {name} " + "─" * (_WIDTH - len(name) - 3) + "┐"
    return [top, *(f"│ {line:{_WIDTH - 2}} │" for line in inside), "└" + "─" * _WIDTH + "┘"]


def _side_by_side(boxes: list[list[str]]) -> str:
    height = max(len(box) for box in boxes)
    filled = [[*box[:-1], *[f"│{'':{_WIDTH}}│"] * (height - len(box)), box[-1]] for box in boxes]
    return "\n".join("  ".join(row) for row in zip(*filled, strict=True))
