"""The environment a checkpoint names: loaded here, and only if it is the same one to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grail_core.environment import Environment, EnvironmentSpec
from grail_core.errors import EnvironmentUnavailableError
from grail_core.protocol.types import Digest
from grail_envs.registry import load

if TYPE_CHECKING:
    from grail_core.protocol.manifest import CheckpointManifest


class BoundEnvironments:
    """Environments of checkpoints, each loaded once. Called with a manifest; see `load_bound` for its errors."""

    def __init__(self, data_dir: Path | None = None) -> None:
        self._data_dir = data_dir
        self._loaded: dict[Digest, Environment] = {}

    def __call__(self, manifest: CheckpointManifest) -> Environment:
        digest = manifest.env_digest
        if digest not in self._loaded:
            self._loaded[digest] = load_bound(manifest.environment, digest, self._data_dir)
        return self._loaded[digest]


def load_bound(spec: EnvironmentSpec, digest: Digest, data_dir: Path | None = None) -> Environment:
    """The environment of a checkpoint manifest.

    Raises:
        EnvironmentUnavailableError: it is not installed, its data set is not there, or what is installed here has another
            digest than the network's (another version, parameters or data).
    """
    environment = load(spec.env_id, **{**spec.parameters, "data_dir": data_dir})  # the folder is ours, whatever a spec says
    if environment.spec.digest != digest:
        raise EnvironmentUnavailableError(
            f"environment {spec.env_id} here is not the network's: digest {environment.spec.digest.hex()[:16]}…, "
            f"the checkpoint's is {digest.hex()[:16]}…",
            where=f"version {environment.spec.version} here, {spec.version} in the checkpoint",
            hint="upgrade grail-envs, or point GRAIL_DATA_DIR at the data set that the network uses",
        )
    return environment
