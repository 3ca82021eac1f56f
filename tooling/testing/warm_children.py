"""Configurations tried out in children of a process that has imported torch and Transformers already.

A production child imports both anew for every configuration, which takes seconds each, and case tables try out dozens. Here
they are forked from a process that has: the same function runs in them under the same limits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from grail_core.model import skeleton


def serve(max_memory: int) -> None:
    """One line a configuration: the answer is the child's exit code and standard output."""
    import torch  # noqa: F401 - so that no child has to
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: F401

    skeleton.MAX_MEMORY = max_memory
    for line in sys.stdin:
        with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as told:
            asked.write(line.encode())
            asked.seek(0)
            child = os.fork()
            if child == 0:
                os.dup2(asked.fileno(), 0)
                os.dup2(told.fileno(), 1)
                sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the child's end
                skeleton.skeleton_main()
            _, status = os.waitpid(child, 0)
            told.seek(0)
            code = os.waitstatus_to_exitcode(status)
            print(json.dumps({"code": code, "told": told.read().decode()}), flush=True)


@contextmanager
def warm_skeletons(max_memory: int = skeleton.MAX_MEMORY) -> Iterator[None]:
    """Every configuration that is tried in the block is tried so.

    Args:
        max_memory: bytes that a configuration may take; a smaller limit is reached sooner.
    """
    command = [sys.executable, "-c", f"from tooling.testing.warm_skeletons import serve; serve({max_memory})"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        asked, told = server.stdin, server.stdout

        def child(config: bytes) -> subprocess.CompletedProcess[bytes]:
            asked.write(json.dumps(json.loads(config)) + "\n")
            asked.flush()
            answer = json.loads(told.readline())
            return subprocess.CompletedProcess(command, answer["code"], answer["told"].encode(), b"")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(skeleton, "_child", child)
            skeleton._check_text.cache_clear()
            yield
            skeleton._check_text.cache_clear()
        asked.close()  # it ends with its input
