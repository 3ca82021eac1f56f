"""The environment a checkpoint names: loaded here, and only if it is the same one to the byte."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grail_core.environment import Environment, EnvironmentSpec
from grail_core.errors import EnvironmentUnavailableError
from grail_core.protocol.types import Digest
from grail_envs.registry import load_exactly

if TYPE_CHECKING:
    from grail_core.protocol.manifest import CheckpointManifest


MOST_KEPT: Final = 4
"""Environments that are kept: every one holds its rows, and a network may name ever new ones."""


class BoundEnvironments:
    """Environments of checkpoints, the last few kept. Called with a manifest; see `load_bound` for its errors."""

    def __init__(self, data_dir: Path | None = None) -> None:
        self._data_dir = data_dir
        self._loaded: dict[Digest, Environment] = {}  # the one that was used last stands last
        self._lock = threading.Lock()

    def __call__(self, manifest: CheckpointManifest) -> Environment:
        digest = manifest.env_digest
        with self._lock:
            found = self._loaded.pop(digest, None)
            if found is not None:
                self._loaded[digest] = found
                return found
        loaded = load_bound(manifest.environment, digest, self._data_dir)
        with self._lock:
            self._loaded[digest] = loaded
            while len(self._loaded) > MOST_KEPT:
                del self._loaded[next(iter(self._loaded))]
        return loaded


def load_bound(spec: EnvironmentSpec, digest: Digest, data_dir: Path | None = None) -> Environment:
    """The environment of a checkpoint manifest, whose every word is a stranger's.

    An adapter's package is loaded only if this machine's operator named it (`grail_envs.adapters.consent`).

    Raises:
        EnvironmentUnavailableError: it is not installed, is made by a package that the operator did not name, its data set is
            not there, or what is installed here has another digest than the network's (another version, parameters or data).
    """
    if "?" in spec.env_id:
        raise EnvironmentUnavailableError(
            f"the checkpoint names an environment {spec.env_id[:100]!r}, which is no id",
            where="env_id",
            hint="a network says parameters apart from the id; nothing of it is loaded",
        )
    parameters = {name: value for name, value in spec.parameters.items() if name != "data_dir"}  # the folder is ours
    try:
        environment = load_exactly(spec.env_id, parameters, data_dir)
    except (ArithmeticError, AttributeError, LookupError, RecursionError) as error:  # the parameters are a stranger's
        raise EnvironmentUnavailableError(
            f"environment {spec.env_id} does not take the checkpoint's parameters: {type(error).__name__}",
            where=f"version {spec.version} in the checkpoint",
            hint="is grail-envs the network's version? if so, ask whoever runs the network",
        ) from error
    if environment.spec.digest != digest:
        raise EnvironmentUnavailableError(
            f"environment {spec.env_id} here is not the network's: digest {environment.spec.digest.hex()[:16]}…, "
            f"the checkpoint's is {digest.hex()[:16]}…",
            where=f"version {environment.spec.version} here, {spec.version} in the checkpoint",
            hint="upgrade grail-envs, or point GRAIL_DATA_DIR at the data set that the network uses",
        )
    return environment
