"""One model process as its parent holds it. What its end means is `model_process`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grail_core
import grail_validator
from grail_core.child_process.handle import ChildHandle, boot_command, child_environment, folders_of
from grail_validator.model_frames import Kind

__all__ = ["COMMAND", "ModelHandle", "child_environment"]

COMMAND: Final = boot_command("grail_validator.model_child", 2)
_FOLDERS: Final = folders_of(grail_core, grail_validator)


class ModelHandle(ChildHandle[Kind]):
    """Raises MachineFaultError: this machine starts no process."""

    def __init__(self, command: Sequence[str], *, device: str, attention: str) -> None:
        super().__init__(command, (device, attention), folders=_FOLDERS, kinds=Kind, name="model process")
