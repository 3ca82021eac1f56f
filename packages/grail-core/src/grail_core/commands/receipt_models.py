"""Which folder a receipt is held against: the one that was given, or one of the hub's cache that has its configuration.

What reads a model is imported once there is one to read: without `grail-core[model]` everything else of a receipt is checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.inference.receipts import Receipt
from grail_core.proof.reader_table import ReaderTable
from grail_core.verification.receipt import ModelAtHand

_MAX_CONFIG = 1 << 20


class Folders:
    """Each folder is read, and its weights hashed, once for all receipts.

    Args:
        given: None: look in the hub's cache. own: the reader's own table of bounds.

    Raises:
        ConfigurationError: the given folder is not there.
    """

    def __init__(self, given: Path | None, device: str, own: ReaderTable | None = None) -> None:
        if given is not None and not given.is_dir():
            raise ConfigurationError("there is no such folder", where=f"--model {given}", hint="name the model's folder")
        self._given = given
        self._device = device
        self._own = own
        self._read: dict[tuple[Path, str], ModelAtHand] = {}

    def of(self, raw: bytes) -> ModelAtHand | None:
        """What to hold a receipt against; None where it does not parse, or no folder is known for it.

        Raises:
            ConfigurationError: nothing here runs a model. CheckpointError: it is no model that can be checked with.
        """
        try:
            receipt = Receipt.from_bytes(raw)
        except ValueError:
            return None  # `check_receipt` says why
        if self._given is not None:
            return self._of_folder(self._given, receipt.model.thinking_mode)
        for folder in _cached_with(receipt.model.config_digest) if _reads_models() else ():
            try:
                found = self._of_folder(folder, receipt.model.thinking_mode)
            except CheckpointError:  # a download that broke off, or another model with the same configuration
                continue
            if found.model == receipt.model:
                return found
        return None

    def _of_folder(self, folder: Path, thinking_mode: str) -> ModelAtHand:
        known = self._read.get((folder, thinking_mode))
        if known is None:
            require_what_runs_models(folder)
            from grail_core.checkpoints.served_model import read_manifest_file, read_served_folder
            from grail_core.verification.receipt_model import model_at_hand

            served = read_served_folder(folder, thinking_mode=thinking_mode)
            manifest = read_manifest_file(folder)
            known = model_at_hand(folder, served.model, served.renderer, device=self._device, manifest=manifest, own=self._own)
            self._read[folder, thinking_mode] = known
        return known


def require_what_runs_models(folder: Path) -> None:
    """Raises ConfigurationError where grail-core was installed without its extra for models."""
    if not _reads_models():
        raise ConfigurationError(
            "what runs a model is not installed here",
            where=f"--model {folder}",
            hint="pip install 'grail-core[model]'; a receipt is checked without --model in what needs none",
        )


def _reads_models() -> bool:
    return all(find_spec(name) is not None for name in ("torch", "transformers", "tokenizers"))


def _cached_with(config_digest: bytes) -> Iterator[Path]:
    """Snapshots of the hub's cache whose config.json has this SHA-256."""
    for config in sorted(hub_cache().glob("models--*/snapshots/*/config.json")):
        try:
            if config.stat().st_size <= _MAX_CONFIG and hashlib.sha256(config.read_bytes()).digest() == config_digest:
                yield config.parent
        except OSError:  # a link whose file is gone
            continue


def hub_cache() -> Path:
    """Where `hf download` and Transformers keep what they fetched."""
    given = os.environ.get("HF_HUB_CACHE")
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(given).expanduser() if given else home.expanduser() / "hub"
