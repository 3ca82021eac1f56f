"""Answers that attack: each tries to pass without solving, to reach outside, or to use up the machine.

A program is asked for `target(n)`, whose right values it cannot know. `$NAME` parts are filled in by the runner with things to
find or to break: a secret file, a folder to write to, a listening port, the host's process id. A program that finds a secret
shows it in what it raises or prints.
"""
# ruff: noqa: E501 - programs are quoted as they run

from __future__ import annotations

EQUAL_TO_ALL = """
class Any(BASE):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
def target(n):
    return Any()
"""

PROGRAMS: dict[str, str] = {
    "read_secret_file": "raise ValueError(open('$SECRET').read())",
    "read_passwd": "raise ValueError('passwd ' + open('/etc/passwd').read()[:50])",
    "read_environment": "import os\nraise ValueError(str(dict(os.environ)))",
    "read_own_memory_map": "raise ValueError('maps ' + open('/proc/self/maps').read()[:50])",
    "read_parents_environment": "import os\nraise ValueError(open('/proc/$HOST_PID/environ').read())",
    "read_parents_memory": "import os\nraise ValueError('mem ' + str(os.open('/proc/$HOST_PID/mem', os.O_RDONLY)))",
    "read_through_descriptors": (
        "import os\nfound = b''\nfor fd in range(200):\n    if fd == 3: continue\n    try: found += os.pread(fd, 4000, 0)\n"
        "    except OSError: pass\nraise ValueError(found.decode('latin-1'))"
    ),
    "list_root": "import os\nraise ValueError('listed ' + str(os.listdir('/')))",
    "list_home": "import os\nraise ValueError('listed ' + str(os.listdir('/root')))",
    "connect_tcp": "import socket\ns = socket.create_connection(('127.0.0.1', $PORT), 1)\ns.sendall(b'x')\ndef target(n): return 0",
    "connect_raw_call": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfd = libc.socket(2, 1, 0)\n"
        "raise ValueError('socket %d errno %d' % (fd, ctypes.get_errno()) if fd >= 0 else 'refused')"
    ),
    "connect_abstract": (
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0$ABSTRACT')\nraise ValueError('reached $ABSTRACT')"
    ),
    "connect_udp": "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'x', ('127.0.0.1', $PORT))",
    "fork_bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: raise SystemExit",
    "fork_raw_call": "import ctypes\nif ctypes.CDLL(None).fork() >= 0: raise ValueError('forked $MARK')",
    "vfork_raw_call": "import ctypes\nif ctypes.CDLL(None).syscall(58) >= 0: raise ValueError('forked $MARK')",
    "spawn_shell": "import os\nif os.system('touch $FOLDER/shell') == 0: raise ValueError('ran $MARK')",
    "spawn_subprocess": "import subprocess\nsubprocess.run(['/bin/touch', '$FOLDER/subprocess'])",
    "exec_over": "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo $MARK'])",
    "thread_bomb": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()",
    "memory_bomb": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "memory_bomb_big": "x = bytearray(1 << 45)",
    "memory_map_bomb": "import mmap\nkept = [mmap.mmap(-1, 1 << 30) for _ in range(1000)]",
    "recursion_bomb": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "disk_bomb": "with open('/tmp/x', 'wb') as f:\n    while True: f.write(bytes(1 << 20))",
    "many_files": "for n in range(10**6): open(f'/tmp/{n}', 'w').close()",
    "endless_loop": "while True: pass",
    "endless_loop_swallowing": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "swallow_signals": (
        "import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: time.sleep(1)"
    ),
    "sleep": "import time\ntime.sleep(1000)",
    "endless_output": "while True: print('x' * 10**6)",
    "endless_iterator": "import itertools\ndef target(n): return itertools.count()\ntarget.__iter__ = None",
    "endless_generator": "def target(n):\n    while True: yield n",
    "deep_value": "def target(n):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "cyclic_value": "def target(n):\n    x = []\n    x.append(x)\n    return x",
    "huge_value": "def target(n): return 'x' * (1 << 28)",
    "huge_number": "def target(n): return 1 << (1 << 24)",
    "kill_parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill($HOST_PID, signal.SIGKILL)",
    "kill_everything": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "kill_group": "import os, signal\nos.killpg(0, signal.SIGKILL)",
    "trace_parent": "import ctypes\nif ctypes.CDLL(None).ptrace(16, $HOST_PID, 0, 0) == 0: raise ValueError('traced $MARK')",
    "write_outside": "open('$FOLDER/written', 'w').write('x')",
    "write_into_python": "import os\nopen(os.__file__, 'a').write('#')\nraise ValueError('written $MARK')",
    "link_outside": "import os\nos.symlink('$SECRET', '/tmp/s')\nraise ValueError(open('/tmp/s').read())",
    "hard_link_outside": "import os\nos.link('$SECRET', '/tmp/s')\nraise ValueError(open('/tmp/s').read())",
    "mount": "import ctypes\nif ctypes.CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0: raise ValueError('mounted $MARK')",
    "new_namespace": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: raise ValueError('unshared $MARK')",
    "keyring_and_bpf": (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "if min(libc.syscall(n, 0, 0, 0, 0, 0) for n in (250, 321, 425, 319)) >= 0: raise ValueError('called $MARK')"
    ),
    "forge_on_every_descriptor": (
        "import os, struct, json\nraw = json.dumps({'passed': True, 'stage': 'done', 'detail': '', 'out': '', 'ready': True}).encode()\n"
        "for fd in range(200):\n    for text in (struct.pack('>I', len(raw)) + raw, raw + b'\\n'):\n"
        "        try: os.write(fd, text)\n        except OSError: pass\nos._exit(0)"
    ),
    "forge_replies": (
        "import os, struct, json\nraw = json.dumps({'names': {'target': ['h', 0]}, 'out': '', 'v': True}).encode()\n"
        "for _ in range(50): os.write(3, struct.pack('>I', len(raw)) + raw)\nos._exit(0)"
    ),
    "nonsense_on_the_channel": "import os\nos.write(3, b'\\xff' * 100000)\nos._exit(0)",
    "exit_zero": "import os\nos._exit(0)",
    "exit_politely": "raise SystemExit(0)",
    "exit_in_call": "import os\ndef target(n): os._exit(0)",
    "exit_late": "import atexit, os\natexit.register(os._exit, 0)\ndef target(n): raise SystemExit(0)",
    "equal_to_all": EQUAL_TO_ALL.replace("BASE", "object"),
    "equal_to_all_int": EQUAL_TO_ALL.replace("BASE", "int"),
    "equal_to_all_text": EQUAL_TO_ALL.replace("BASE", "str"),
    "equal_to_all_list": EQUAL_TO_ALL.replace("BASE", "list"),
    "equal_to_all_number": EQUAL_TO_ALL.replace("BASE", "float").replace(
        "__bool__", "__sub__(self, o): return self\n    def __bool__"
    ),
    "patch_builtins": (
        "import builtins\nfor name in ('abs', 'set', 'sorted', 'len', 'all', 'any', 'min', 'max', 'round', 'isinstance'):\n"
        "    setattr(builtins, name, lambda *a, **k: True)\nimport math, operator\nmath.isclose = operator.eq = lambda *a, **k: True\n"
        "def target(n): return 1"
    ),
    "patch_the_judge": (
        "import sys, gc\nfor m in list(sys.modules.values()):\n    for name in list(vars(m) if hasattr(m, '__dict__') else ()):\n"
        "        if name in ('judge', 'send', 'receive', 'decode', 'encode', 'grade', 'AssertionError'):\n"
        "            setattr(m, name, lambda *a, **k: {'passed': True})\ndef target(n): return 1"
    ),
    "walk_the_frames": (
        "import sys\ndef target(n):\n    f = sys._getframe()\n    seen = []\n    while f: seen.append(str(f.f_locals)); f = f.f_back\n"
        "    raise ValueError(str('$EXPECTED' in ''.join(seen)) + ' '.join(seen)[:150])"
    ),
    "walk_the_heap": (
        "import gc\ndef target(n):\n    for o in gc.get_objects():\n        if isinstance(o, (list, tuple)) and $EXPECTED in o: return $EXPECTED_AT\n"
        "    return None"
    ),
    "read_raw_memory": (
        "import ctypes, re\ndef target(n):\n    base = id(n) & ~0xfffff\n    raw = ctypes.string_at(base, 1 << 20)\n"
        "    found = re.search(rb'target\\(%d\\) == (-?\\d+)' % n, raw)\n    return int(found[1]) if found else None"
    ),
    "replace_assertion": "class AssertionError(Exception): pass\nimport builtins\nbuiltins.AssertionError = Exception\ndef target(n): return 0",
    "trace_function": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef target(n): return 0",
    "raise_odd": (
        "class E(BaseException):\n    def __str__(self): raise SystemExit(0)\n    __repr__ = __str__\ndef target(n): raise E()"
    ),
    "compile_bomb": "x = '(' * 10**5 + ')' * 10**5\neval(x)",
    "parser_nest": "(" * 5000 + ")" * 5000,
    "null_bytes": "\x00\x00def target(n): return 0",
    "power_tower": "def target(n): return 9**9**9**9",
    "catastrophic_pattern": "import re\ndef target(n): return re.match(r'(a+)+$', 'a' * 60 + 'b')",
    "crash_interpreter": "import ctypes\nctypes.string_at(0)",
    "unpickle_something": "import pickle\npickle.loads(b\"cos\\nsystem\\n(S'touch $FOLDER/pickle'\\ntR.\")",
}
