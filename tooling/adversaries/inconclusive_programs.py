"""Answers that try to make their own judgement inconclusive: to have it called somebody else's fault.

`PARTS` do something to their process, their channels or their grader. `programs` runs each once while the answer is loaded and
once while a test calls it. None of them knows what `target(n)` should be, so a grade that is one says no.
"""
# ruff: noqa: E501 - programs are quoted as they run

from __future__ import annotations

_SIGNALS = (
    "SIGKILL",
    "SIGSTOP",
    "SIGTSTP",
    "SIGSEGV",
    "SIGBUS",
    "SIGFPE",
    "SIGABRT",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGSYS",
    "SIGTERM",
)
_CODES = (0, 1, 2, 70, 97, 98, 99, 126, 137, 255)
_TGKILL = "libc.syscall({'x86_64': 234, 'aarch64': 131}[os.uname().machine], os.getpid(), os.getpid(), int(signal.{0}))"

PARTS: dict[str, str] = {
    **{f"exit_{code}": f"import os\nos._exit({code})" for code in _CODES},
    **{f"sys_exit_{code}": f"import sys\nsys.exit({code})" for code in (97, 137, -9)},
    **{f"raise_{name}": f"import signal, time\nsignal.raise_signal(signal.{name})\ntime.sleep(9)" for name in _SIGNALS},
    **{
        f"send_{name}": "import ctypes, os, signal, time\nlibc = ctypes.CDLL(None)\n"
        + _TGKILL.replace("{0}", name)
        + "\ntime.sleep(9)"
        for name in ("SIGKILL", "SIGSTOP", "SIGSYS")
    },
    "default_and_abort": "import os, signal\nsignal.signal(signal.SIGABRT, signal.SIG_DFL)\nos.abort()",
    "fault": "import ctypes\nctypes.string_at(1)",
    "alarm": "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_DFL)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(9)",
    "end_first_thread": (
        "import ctypes, os, threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 97)"
    ),
    "end_other_thread": (
        "import ctypes, os, threading, time\n"
        "threading.Thread(target=lambda: ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 97)).start()\ntime.sleep(0.05)"
    ),
    "close_all": "import os\nos.closerange(0, 1000)",
    "close_all_and_wait": "import os, time\nos.closerange(0, 1000)\ntime.sleep(9)",
    "replace_all": "import os\nnull = os.open('/dev/null', os.O_RDWR)\nfor fd in range(60):\n    if fd != null: os.dup2(null, fd)",
    "channel_to_itself": "import os, socket\na, b = socket.socketpair()\nos.dup2(a.fileno(), 3)",
    "shut_down": "import socket\nsocket.socket(fileno=3).shutdown(socket.SHUT_RDWR)",
    "shut_down_writing": "import socket, time\nsocket.socket(fileno=3).shutdown(socket.SHUT_WR)\ntime.sleep(9)",
    "not_blocking": "import os\nos.set_blocking(3, False)",
    "forge_ready": (
        "import json, os\nfor fd in range(3, 60):\n"
        "    for text in (b'r', b'h', json.dumps({'ready': False, 'problem': 'not confined'}).encode() + b'\\n'):\n"
        "        try: os.write(fd, text)\n        except OSError: pass"
    ),
    "forge_a_fault": (
        "import json, os, struct\nfor said in ({'conclusive': False}, {'stage': 'sandbox', 'passed': False, 'conclusive': False}, {'limit': 'time', 'killed': True}):\n"
        "    raw = json.dumps(said).encode()\n    os.write(3, struct.pack('>I', len(raw)) + raw)"
    ),
    "half_a_frame": "import os, time\nos.write(3, b'\\0\\0\\1\\0half')\ntime.sleep(9)",
    "half_a_frame_and_exit": "import os\nos.write(3, b'\\0\\0\\1\\0half')\nos._exit(97)",
    "frame_of_four_gigabytes": "import os\nos.write(3, b'\\xff\\xff\\xff\\xff')",
    "nested_frame": "import os, struct\nraw = b'[' * 100000\nos.write(3, struct.pack('>I', len(raw)) + raw)",
    "frames_without_end": "import os, struct\nwhile True: os.write(3, struct.pack('>I', 2) + b'{}')",
    "numbers_without_end": "import os, struct\nraw = b'{\"v\":' + b'9' * 100000 + b'}'\nos.write(3, struct.pack('>I', len(raw)) + raw)",
    "names_that_are_none": 'import os, struct\nraw = b\'{"names": {"target": 5}, "out": 7}\'\nos.write(3, struct.pack(\'>I\', len(raw)) + raw)\nos._exit(97)',
    "kill_parent": "import os, signal\nfor pid in (os.getppid(), 1, 0, -1):\n    try: os.kill(pid, signal.SIGKILL)\n    except OSError: pass",
    "stop_parent": "import os, signal\nfor pid in (os.getppid(), 1, 0, -1):\n    try: os.kill(pid, signal.SIGSTOP)\n    except OSError: pass",
    "grandchild_keeps_the_channel": "import os, time\ntry:\n    if os.fork() == 0: time.sleep(9)\nexcept OSError: pass\nos._exit(97)",
    "threads_without_end": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "memory_and_wait": "import time\nkept = []\ntry:\n    while True: kept.append(bytearray(1 << 22))\nexcept MemoryError: pass\ntime.sleep(9)",
    "memory_and_exit": "import os\nkept = []\ntry:\n    while True: kept.append(bytearray(1 << 22))\nexcept MemoryError: os._exit(97)",
    "disk_and_exit": "import os\ntry:\n    with open('/tmp/x', 'wb', 0) as f:\n        while True: f.write(bytes(1 << 20))\nexcept OSError: os._exit(97)",
    "descriptors_and_exit": "import os\ntry:\n    while True: os.open('/dev/null', 0)\nexcept OSError: os._exit(97)",
    "own_limits": "import resource\nfor which in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_DATA, resource.RLIMIT_STACK):\n    resource.setrlimit(which, (0, 0))",
    "own_time_limit": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (0, 0))\nwhile True: pass",
    "deep_recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return [f(n + 1)]\nf(0)",
    "excepthook": "import os, sys\nsys.excepthook = sys.unraisablehook = lambda *a: os._exit(97)\nraise ValueError",
    "exit_in_destructor": "import os\nclass D:\n    def __del__(self): os._exit(97)\nD()",
    "exit_in_text_of_error": "import os\nclass E(Exception):\n    def __str__(self): os._exit(97)\nraise E",
    "odd_exit_code": "class Code:\n    def __eq__(self, other): raise KeyboardInterrupt\n    __hash__ = None\nraise SystemExit(Code())",
    "exit_without_code": "class Exit(SystemExit):\n    @property\n    def code(self): raise MemoryError\n    @code.setter\n    def code(self, value): pass\nraise Exit",
    "name_of_error_raises": "class Meta(type):\n    @property\n    def __name__(cls): raise SystemExit(97)\nclass E(Exception, metaclass=Meta): pass\nraise E",
    "interrupt": "raise KeyboardInterrupt",
    "generator_exit": "raise GeneratorExit",
    "memory_error": "raise MemoryError",
    "blocking_error": "raise BlockingIOError(11, 'again')",
    "broken_pipe": "raise BrokenPipeError",
    "end_of_file": "raise EOFError",
    "patch_the_channel": "import os\nos.write = os.read = lambda *a: os._exit(97)",
    "patch_json": "import json\njson.dumps = json.loads = lambda *a, **k: 1 / 0",
    "output_without_end": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "surrogates": "raise ValueError('\\ud800\\udfff \\x00 \\x1b[2J')",
    "real_randomness": "import ctypes\nbuffer = ctypes.create_string_buffer(1)\nctypes.CDLL(None).getrandom(buffer, 1, 0)\nif buffer.raw[0] & 1: raise ValueError",
    "real_randomness_and_exit": "import ctypes, os\nbuffer = ctypes.create_string_buffer(1)\nctypes.CDLL(None).getrandom(buffer, 1, 0)\nif buffer.raw[0] & 1: os._exit(97)",
}


def programs() -> dict[str, str]:
    """Every part as a whole answer, by name."""
    found = {}
    for name, part in PARTS.items():
        body = "".join(f"    {line}\n" for line in part.splitlines())
        found[f"{name} when loaded"] = f"{part}\ndef target(n):\n    return 0\n"
        found[f"{name} when called"] = f"def target(n):\n{body}    return 0\n"
    return found
