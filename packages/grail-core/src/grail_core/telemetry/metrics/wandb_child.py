"""The process that speaks with W&B, for one role: `python -m grail_core.telemetry.metrics.wandb_child`.

JSON lines come on stdin: first what the run is (with the key, which is in no argument and no variable of this process or of one
that it starts), then points; one answer goes to stdout, `{"began": …}` or `{"failed": …}`. `wandb.init`, `log` and `finish` may
each wait for ever, and so may wandb's own helpers at exit: when stdin ends, this process has FINISH_S seconds and ends its
whole session.
Of this machine nothing goes along but the points: no host name, user, command line, code, git state or system statistics.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any, Final, TextIO

FINISH_S: Final = 20.0
MAX_WAITING: Final = 10_000
"""Points that wait for W&B here; later ones are dropped."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # wandb prints
    os.dup2(nowhere, 2)
    lines = iter(sys.stdin.readline, "")
    about = json.loads(next(lines))
    points: list[str] = []
    come = threading.Condition()
    threading.Thread(target=_read, args=(lines, points, come), daemon=True).start()
    try:
        _log_on(about, points, come, answers)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the role is told and goes on
        _say(answers, {"failed": f"{type(error).__name__}: {error}"[:500]})
    _end()


def _read(lines: Any, points: list[str], come: threading.Condition) -> None:
    for line in lines:
        with come:
            if len(points) < MAX_WAITING:  # while wandb.init or log waits for its server, however long the role runs
                points.append(line)
            come.notify()
    with come:
        points.append("")  # the role has ended, or wants no more
        come.notify()
    time.sleep(FINISH_S)
    _end()


def _log_on(about: dict[str, Any], points: list[str], come: threading.Condition, answers: TextIO) -> None:
    import wandb

    run = wandb.init(
        project=about["project"],
        entity=about["entity"] or None,
        mode=about["mode"],
        dir=about["folder"],
        job_type=about["role"],
        config=about["config"],
        settings=wandb.Settings(
            api_key=about["key"] or None,  # not in the environment, which wandb's own processes would show
            silent=True,
            console="off",
            host=about["role"],
            username=about["role"],
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    _say(answers, {"began": run.id, "folder": run.dir})
    while True:
        with come:
            while not points:
                come.wait()
            taken, points[:] = list(points), []
        for line in taken:
            if not line:
                run.finish()
                return
            run.log(json.loads(line))


def _say(answers: TextIO, what: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(what) + "\n")
        answers.flush()
    except OSError:
        pass  # the role has gone


def _end() -> None:
    """With whatever wandb has started: this process leads a session of its own."""
    if os.getsid(0) == os.getpid():
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
