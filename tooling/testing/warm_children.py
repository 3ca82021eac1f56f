"""Configurations and tokenizer files tried out in children of a process that has imported what they need already.

A production child imports torch and Transformers anew for every configuration, which takes seconds, and a tokenizer's library
for every folder, and case tables try out dozens. Here they are forked from a process that has: the same function runs in them
under the same limits, or under smaller ones, which are reached sooner.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from grail_core.model import prompt_trial, skeleton

Answer = subprocess.CompletedProcess[bytes]
Ask = Callable[[str, Any], Answer]


def serve_skeletons(max_memory: int) -> None:
    import torch  # noqa: F401 - so that no child has to
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: F401

    skeleton.MAX_MEMORY = max_memory
    _serve(lambda _: skeleton.skeleton_main())


def serve_trials(max_space: int) -> None:
    import grail_core.model.prompts  # noqa: F401 - so that no child has to

    prompt_trial.MAX_TOKENIZER_SPACE = max_space
    entries = {"template_main": prompt_trial.template_main, "files_main": prompt_trial.files_main}
    _serve(lambda entry: entries[entry]())


def _serve(run: Callable[[str], None]) -> None:
    """One line a job, its name and its input: the answer is the child's exit code and standard output."""
    gc.collect()
    gc.freeze()  # a child that collected these would copy their pages
    for line in sys.stdin:
        name, given = json.loads(line)
        with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as told:
            asked.write(given.encode())
            asked.seek(0)
            child = os.fork()
            if child == 0:
                os.dup2(asked.fileno(), 0)
                os.dup2(told.fileno(), 1)
                sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the child's end
                run(name)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            told.seek(0)
            code = os.waitstatus_to_exitcode(status)
            print(json.dumps({"code": code, "told": told.read().decode()}), flush=True)


@contextmanager
def skeleton_server(max_memory: int = skeleton.MAX_MEMORY) -> Iterator[Ask]:
    """What tries configurations, for as long as the block lasts; it takes seconds to start.

    Args:
        max_memory: bytes that a configuration may take.
    """
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with _server(f"serve_skeletons({max_memory})", environment) as ask:
        yield ask


@contextmanager
def warm_skeletons(ask: Ask) -> Iterator[None]:
    """Every configuration that is tried in the block is tried by this server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skeleton, "_child", lambda config: ask("", json.loads(config)))
        skeleton._check_text.cache_clear()
        yield
        skeleton._check_text.cache_clear()


@contextmanager
def warm_trials(max_space: int = prompt_trial.MAX_TOKENIZER_SPACE) -> Iterator[None]:
    """Every template and every folder of tokenizer files that is tried in the block is tried so.

    Args:
        max_space: bytes of addresses that tokenizer files may take.
    """
    environment = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    with _server(f"serve_trials({max_space})", environment) as ask, pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_trial, "_run", ask)
        for tried in (prompt_trial._tried_template, prompt_trial._tried_files):
            tried.cache_clear()
        yield
        for tried in (prompt_trial._tried_template, prompt_trial._tried_files):
            tried.cache_clear()


@contextmanager
def _server(call: str, environment: Mapping[str, str]) -> Iterator[Ask]:
    """What asks a process that serves so: the job's name and its input as a JSON value."""
    command = [sys.executable, "-c", f"from tooling.testing import warm_children as w; w.{call}"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        asked, told = server.stdin, server.stdout

        def ask(name: str, given: Any) -> Answer:
            asked.write(json.dumps([name, json.dumps(given)]) + "\n")
            asked.flush()
            answer = json.loads(told.readline())
            return subprocess.CompletedProcess(command, answer["code"], answer["told"].encode(), b"")

        yield ask
        asked.close()  # it ends with its input
