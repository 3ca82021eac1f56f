"""A file that a command will write: looked at before the work, so that no work is lost and nothing is replaced unasked."""

from __future__ import annotations

import os
from pathlib import Path

from grail_core.errors import ConfigurationError


def require_new(file: Path, *, force: bool, option: str) -> None:
    """Raises ConfigurationError: it is there already and `force` is not said, or its folder cannot be written."""
    where = f"{option} {file}"
    if file.exists() and not force:
        raise ConfigurationError("there is a file of this name already", where=where, hint="name another; --force replaces it")
    if not file.parent.is_dir():
        raise ConfigurationError("there is no such folder", where=where, hint=f"mkdir -p {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise ConfigurationError("nothing can be written in this folder", where=where, hint="name another folder")
