"""How much memory this machine, or the container that this process runs in, can still give."""

from __future__ import annotations

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """The least of what the kernel says is available and what every control group above this process leaves; None where
    nothing says so (no Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    known = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*known, *_left_in_groups()], default=None)


def _left_in_groups() -> list[int]:
    try:
        entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    left = []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers == "":
            left += _left_below(_CGROUPS, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left += _left_below(_CGROUPS / "memory", path, *names)
    return left


def _left_below(root: Path, path: str, limit_name: str, used_name: str, cache_name: str) -> list[int]:
    """What each group from `path` up to the root leaves; the page cache that can be dropped counts as free."""
    folder = root / path.strip("/")
    if not folder.is_dir():
        folder = root  # inside a container a group's path may not be visible
    left = []
    while True:
        try:
            limit = int((folder / limit_name).read_text())
            used = int((folder / used_name).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            left.append(limit - used + int(stat.get(cache_name, 0)))
        except (OSError, ValueError):
            pass  # no limit here ("max"), or none that can be read
        if folder == root:
            return left
        folder = folder.parent
