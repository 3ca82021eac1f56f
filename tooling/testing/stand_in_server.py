"""A program in an engine's place, for what can go wrong in a server's life and not in its answers.

`python stand_in_server.py BEHAVIOUR PORT`: listens on the port and answers /health once it `serves`; what it does beside is its
behaviour's. It knows no model and no schema: `tooling.testing.engine_double` does.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import time

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/die":
            os._exit(9)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(port: int) -> None:
    http.server.ThreadingHTTPServer(("127.0.0.1", port), _Answers).serve_forever()


def main(behaviour: str, port: int) -> None:
    print(f"stand-in: {behaviour}", flush=True)
    match behaviour:
        case "serves":
            serve(port)
        case "dies":
            sys.exit("ValueError: this cannot be served")
        case "has no memory":
            sys.exit(OUT_OF_MEMORY)
        case "finds its port taken":
            sys.exit("[Errno 98] error while attempting to bind on address: address already in use")
        case "never answers":
            time.sleep(3600)
        case "does not hear":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            serve(port)
        case "has children":  # one in a session of its own, which hears nothing, and one below it
            deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
            nested = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {deaf!r}]); time.sleep(3600)"
            subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
            subprocess.Popen([sys.executable, "-c", nested], start_new_session=True)
            serve(port)
        case "leaves a child and dies":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
            sys.exit(3)
        case "talks":
            for number in range(20_000):
                print(f"line {number} " + 80 * "x")
            print("enough", flush=True)
            serve(port)
        case _:
            raise ValueError(f"no such behaviour: {behaviour}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
