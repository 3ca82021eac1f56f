"""A process that kills itself at the worst moment, one moment after the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any


def killed_at(step: int, calls: Iterable[tuple[Any, str]], action: Callable[[], object]) -> bool:
    """Run in a child that SIGKILLs itself just before its `step`-th call of one of `calls`; True if it was killed.

    Args:
        calls: (module or class, name of a function in it).
    """
    child = os.fork()
    if child == 0:
        left = step

        def dying(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return wrapped

        for place, name in calls:
            setattr(place, name, dying(getattr(place, name)))
        try:
            action()
        except BaseException:  # noqa: BLE001 - whatever it is, the child must end here and not go on with the tests
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the child failed: {status}"
    return os.WIFSIGNALED(status)
