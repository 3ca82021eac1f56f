"""Which Triton judges: a part of the spec, because another one may compile or interpret a kernel another way.

A network's validators have one digest, so they have one Triton: 3.9 beside the CPU build of PyTorch, 3.7 beside its CUDA build.
What is installed is looked up where the environment is made; nothing is imported.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError

JUDGED_BY: Final = "3.9"


def need_version(wanted: str) -> None:
    """Refuse an environment that this machine would judge by another Triton. One without any makes problems and judges nothing.

    Raises:
        ConfigurationError: `wanted` is no version of the form 3.9.
        EnvironmentUnavailableError: another one is installed.
    """
    if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", str(wanted)):
        raise ConfigurationError(f"{str(wanted)[:40]!r} is no version of Triton", where="triton", hint='write "3.9"')
    try:
        found = version("triton")
    except PackageNotFoundError:
        return
    if not f"{found}.".startswith(f"{wanted}."):
        raise EnvironmentUnavailableError(
            f"kernels of this network are judged by Triton {wanted}, and {found} is installed here",
            where="triton",
            hint=f"pip install 'triton=={wanted}.*' in an environment of its own, or join a network of your version",
        )
