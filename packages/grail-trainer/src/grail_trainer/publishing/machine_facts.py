"""What of a machine an update's last bits depend on. Two machines of equal facts are expected to agree to the bit; where they
do not agree, the facts that differ are the first suspects."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata

from grail_core.protocol.reading import Json, Node

MAX_FACT_TEXT = 128
MAX_PACKAGES = 32
MAX_THREADS = 4096
MAX_WORLD_SIZE = 65_536

PACKAGES = ("torch", "transformers", "numpy", "grail-core", "grail-envs", "grail-trainer")
"""Whose code an update runs."""


_WHY = {"world_size": " (so many ranks: each summed the gradients of its own passes, and then they were added up)"}


@dataclass(frozen=True)
class MachineFacts:
    """`threads`: of torch, within one operation; `processor`: architecture and the instructions that torch uses of it."""

    device: str
    processor: str
    threads: int
    world_size: int
    python: str
    packages: Mapping[str, str] = field(default_factory=dict)  # name → version

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MAX_THREADS or not 1 <= self.world_size <= MAX_WORLD_SIZE:
            raise ValueError(f"threads: {self.threads}, world_size: {self.world_size}")

    def differences(self, other: MachineFacts) -> list[str]:
        """One text for each fact that differs: what it is here, what there, and why bits depend on it if that is not plain."""
        ours, theirs = self._flat(), other._flat()
        return [
            f"{name}: {ours.get(name, 'none')} here, {theirs.get(name, 'none')} there{_WHY.get(name, '')}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]

    def _flat(self) -> dict[str, str]:
        own = {name: str(getattr(self, name)) for name in ("device", "processor", "threads", "world_size", "python")}
        return own | dict(self.packages)

    def to_json(self) -> dict[str, Json]:
        return {
            "device": self.device,
            "processor": self.processor,
            "threads": self.threads,
            "world_size": self.world_size,
            "python": self.python,
            "packages": dict(self.packages),
        }

    @classmethod
    def from_json(cls, node: Node) -> MachineFacts:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        m = node.members(*cls.__dataclass_fields__)
        packages = m["packages"].entries(MAX_PACKAGES)
        return node.build(
            lambda: cls(
                device=m["device"].text(MAX_FACT_TEXT),
                processor=m["processor"].text(MAX_FACT_TEXT),
                threads=m["threads"].integer(),
                world_size=m["world_size"].integer(),
                python=m["python"].text(MAX_FACT_TEXT),
                packages={name: version.text(MAX_FACT_TEXT) for name, version in packages.items()},
            )
        )


def machine_facts(device: str, *, world_size: int = 1) -> MachineFacts:
    """Of this process, in the thread that asks: the number of threads may be a thread's own."""
    import torch

    name = device
    if torch.device(device).type == "cuda":
        name = f"{device} {torch.cuda.get_device_name(device)}"
    return MachineFacts(
        device=name[:MAX_FACT_TEXT],
        processor=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"[:MAX_FACT_TEXT],
        threads=torch.get_num_threads(),
        world_size=world_size,
        python=platform.python_version(),
        packages={package: version for package in PACKAGES if (version := _version(package)) is not None},
    )


def most_threads_here() -> int:
    """As many as an audit sets at a stranger's word."""
    return max(8, 4 * (os.cpu_count() or 1))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)[:MAX_FACT_TEXT]
    except metadata.PackageNotFoundError:
        return None  # run from a source tree
