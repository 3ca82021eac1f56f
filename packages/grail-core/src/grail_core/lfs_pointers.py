"""Git LFS pointers: three lines of text that stand where a large file was not fetched."""

from __future__ import annotations

from grail_core.errors import CheckpointError

_BEGINNING = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(beginning: bytes, *, where: str) -> None:
    """Refuse a file that begins so where it is a pointer, whatever it stands for.

    Raises:
        CheckpointError: it is one.
    """
    if beginning.startswith(_BEGINNING):
        raise CheckpointError(
            "this is a Git LFS pointer, not the file that it stands for",
            where=where,
            hint="run `git lfs install` and `git lfs pull` in the cloned folder, or fetch the model with `hf download`",
        )
