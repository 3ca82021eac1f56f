"""What an answer's Python may be, what it is told of its machine, who meets whom in a launch: the borders, without Triton."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.kernels.answer_module import OperandError, module_of, text_of
from grail_envs.kernels.comparing import Expected
from grail_envs.kernels.drawing import Drawn, batches, ignores_inputs
from grail_envs.kernels.environment import TritonKernelEnvironment
from grail_envs.kernels.gpu.devices import gpu_count, need_gpus
from grail_envs.kernels.plan import Plan, PlanError
from grail_envs.kernels.races import Access, RaceError, Races, one_value_each
from grail_envs.kernels.reading import read_answer
from tooling.testing.wrong_kernels import LAUNCH, RIGHT, module

_FIRST = "y = torch.empty_like(x)\n"


def _with(line: str, *, top: str = "") -> str:
    return read_answer(module(f"{line}\n{_FIRST}{LAUNCH}\nreturn y", top=top)).problem


@pytest.mark.parametrize(
    "line",
    [
        "a = hash(object())",
        "a = repr(x)",
        "a = getattr(x, 'shape')",
        "a = x._cdata",
        "a = x.data_ptr()",
        "a = (i for i in range(3)).gi_frame",
        "a = '{0.__class__}'.format(x)",
        "a = torch",
        "a = torch.cuda",
        "a = torch.utils.hooks",
        "a = torch.nn.init.torch.os",
        "a = torch.get_num_threads()",
        "a = torch.version.cuda",
        "a = set([x])",
        "for a in {torch.float16, torch.float32}:\n    pass",
        "a = {i for i in range(3)}",
        "try:\n    a = 1 / 0\nexcept Exception:\n    a = 2",
        "a = open('/proc/cpuinfo')",
        "torch.empty = None",
        "self.a -= 1",
        "import typing as t\na = t.sys",
        "from typing import sys",
        "from torch import backends",
        "from functools import singledispatch",
        "from functools import wraps",
        "from typing import Text",
        "import typing\na = typing.ForwardRef('sys')",
        "a = tl.softmax.rewriter",
        "a = nn.ParameterDict",
        "match x:\n    case object(__class__=a):\n        pass",
        "async def f():\n    pass",
        "class A(metaclass=type):\n    pass",
        "class A:\n    def __exit__(self, *a):\n        return True",
        "a = __builtins__",
        "__name__ = '__main__'",
        "from math import pi as __name__",
        "if __name__ == '__main__':\n    pass\nelse:\n    open('/proc/cpuinfo')",
    ],
)
def test_nothing_beside_a_kernel_leads_to_the_machine(line: str) -> None:
    assert _with(line) != ""


@pytest.mark.parametrize(
    "line",
    [
        "assert x.dtype in {torch.float16, torch.float32}, f'{x.dtype} is not supported'",
        "if x.device.type != 'cuda':\n    raise ValueError('on a GPU, please: %s')",
        "n = x.numel()\nn -= x.numel() % 16\nn = n | 1",
        "sizes = {name: i for i, name in enumerate(('a', 'b'))}\nsizes.items()",
        "from typing import Optional\nfrom dataclasses import dataclass",
        "block = min(1024, max(16, triton.next_power_of_2(x.shape[-1])))",
        "self._block = 16\nprint(self._block, next(self.parameters()).device)",
        "scale = 1.0 / math.sqrt(x.shape[-1])",
        "nn.init.kaiming_uniform_(self.w, a=math.sqrt(5))\nbound, _ = nn.init._calculate_fan_in_and_fan_out(self.w)",
        "with torch.cuda.device(x.device):\n    count = torch.cuda.get_device_properties(0).multi_processor_count",
    ],
)
def test_what_people_write_beside_a_kernel_is_read(line: str) -> None:
    assert (
        _with(line, top="import math\nlayer = nn.Linear\nif __name__ == '__main__':\n    import time\n    time.sleep(1)\n")
        == ""
    )


def test_the_text_of_an_object_does_not_say_where_it_lies() -> None:
    made = module_of(
        "def f(): pass\nA = f'{f}{f!r:>20}'\nB = str(f)\nC = f'{3:04d}{0.5:.2f}{\"a\":>3}{(1, 2)}'\nD = isinstance('', str)"
    )
    assert (made.A, made.B) == ("function            function", "function")
    assert (made.C, made.D) == ("00030.50  a(1, 2)", True)
    assert text_of([print]) == "(builtin_function_or_method)"


@pytest.mark.parametrize(
    "line", ["'%s' % f", "'%s%s' % (f, 1)", "{f: 1}.keys() | []", "{f: 1}.items() - []", "{f: 1}.keys() & {1: f}.keys()"]
)
def test_operators_make_no_texts_and_no_sets(line: str) -> None:
    with pytest.raises(OperandError):
        module_of(f"def f(): pass\nA = {line}")
    assert module_of("A = 7 % 4 - 1\nA -= 5\nA |= 8").A == -3


@pytest.mark.parametrize("line", ["id(0)", "open('/etc/hostname')", "__import__('os')", "eval('1')", "type(0)"])
def test_builtins_beyond_the_list_are_not_there_for_what_form_has_missed(line: str) -> None:
    with pytest.raises((NameError, ImportError)):
        module_of(f"A = {line}")


def _plan(value: Any, source: str = "", do: str = "fill") -> dict[str, Any]:
    view = {"buffer": 0, "dtype": "float32", "shape": [4], "stride": [1], "offset": 0}
    launch = {"do": "launch", "kernel": "k", "grid": [1, 1, 1], "arguments": {"x": view, "a": value}, "options": {}, "junk": 1}
    steps = [launch, {"do": do, "view": view, "value": 0}] if source else [launch]
    return {"buffers": [{"size": 16, "source": source}], "steps": steps, "outputs": [view]}


def test_a_plan_has_one_form_whatever_was_sent_and_numbers_are_those_that_kernels_get() -> None:
    said = Plan.read(_plan(0.1)).said()
    assert said["steps"][0]["arguments"]["a"] == float(np.float32(0.1))
    assert "junk" not in said["steps"][0]
    assert said == Plan.read(_plan(float(np.nextafter(0.1, 1)))).said()
    assert Plan.read(said).said() == said
    assert Plan.read(_plan(1e300)).said()["steps"][0]["arguments"]["a"] == {"float": "inf"}


def test_no_plan_fills_an_input() -> None:
    with pytest.raises(PlanError, match="input 0 is written to"):
        Plan.read(_plan(1, source="input:0"))


def _races(programs: int = 3) -> Races:
    races = Races([16])
    races.begin_launch(programs)
    races.begin_program()
    return races


def _at(*places: int, whole: int = 8) -> Access:
    return Access(0, np.array(places, dtype=np.int64), np.array(places, dtype=np.int64), whole)


def _one(place: int) -> Access:
    return Access(0, np.array([place], dtype=np.int64), np.array([0], dtype=np.int64), 1)


@pytest.mark.parametrize(("first", "then"), [("store", "store"), ("store", "load"), ("store", "update"), ("update", "store")])
def test_two_programs_of_a_launch_may_not_meet_in_a_place(first: str, then: str) -> None:
    races = _races()
    getattr(races, first)(_at(3, 4))
    getattr(races, then)(_at(3)) if first != "update" else None
    races.begin_program()
    getattr(races, then)(_at(5))
    with pytest.raises(RaceError):
        getattr(races, then)(_at(4))


def test_programs_of_two_launches_and_what_was_released_and_waited_for_may_meet() -> None:
    races = _races()
    races.store(_at(3))
    races.begin_launch(3)
    races.begin_program()
    races.load(_at(3))
    races.store(_at(3))
    races.barrier()
    races.update(_one(8))
    races.begin_program()
    with pytest.raises(RaceError, match="did not wait"):
        races.load(_at(3))
    races.update(_one(8))
    races.load(_at(3))
    with pytest.raises(RaceError):
        races.store(_at(8))


@pytest.mark.parametrize("order", ["atomic first", "no barrier", "another atomic", "relaxed"])
def test_an_atomic_that_does_not_hand_over_what_was_stored_is_none(order: str) -> None:
    races = _races()
    if order == "atomic first":
        races.update(_one(8))
    races.store(_at(3))
    races.barrier() if order != "no barrier" else None
    if order != "atomic first":
        races.update(_one(9 if order == "another atomic" else 8), waits=True, releases=order != "relaxed")
    races.begin_program()
    races.update(_one(8))
    with pytest.raises(RaceError, match="did not wait"):
        races.load(_at(3))


def test_lanes_of_one_program_meet_behind_a_barrier_alone() -> None:
    races = _races()
    races.store(_at(3, 4))
    races.load(_at(3))
    turned = Access(0, np.array([4, 3]), np.array([3, 4]), 8)
    with pytest.raises(RaceError, match="another lane"):
        races.load(turned)
    with pytest.raises(RaceError, match="another lane"):
        races.store(turned)
    races.barrier()
    races.load(turned)


def test_one_store_gives_one_place_one_value() -> None:
    everywhere, one = np.array(True), np.array([8, 8, 12], dtype=np.uint64)
    assert one_value_each(one, np.array([np.nan, np.nan, 1], dtype=np.float32), everywhere)
    assert not one_value_each(one, np.array([1, 2, 1], dtype=np.float16), everywhere)
    assert one_value_each(one, np.array([1, 2, 1], dtype=np.int64), np.array([True, False, True]))


@pytest.mark.parametrize("place", ["(x, y) -> open('/proc/cpuinfo')", "(x, y, *, z=id(0))", "(x, y: id(0))", "[T: id](x, y)"])
def test_what_stands_around_a_kernel_is_no_way_out(place: str) -> None:
    assert read_answer(RIGHT.replace("(x, y, cols, BLOCK: tl.constexpr)", place, 1)).problem != ""


def test_classes_of_the_standard_library_work_with_the_builtins_of_an_answer() -> None:
    lines = "from dataclasses import dataclass, field\nfrom collections import namedtuple\nfrom enum import Enum\n"
    lines += "@dataclass(frozen=True)\nclass P:\n    a: str\n    b: list = field(default_factory=list)\n"
    lines += "N = namedtuple('N', 'a b')(P('x').a, len(P('x').b))\nclass E(Enum):\n    A = 1\nV = E.A.value"
    assert (module_of(lines).N, module_of(lines).V) == (("x", 0), 1)


def _drawn(*values: float, side: int = 1) -> Drawn:
    return Drawn({"inputs": side}, {}, (Expected("float32", (len(values),), np.array(values), 1),))


def test_a_task_is_none_whose_outputs_are_the_same_in_every_draw() -> None:
    assert ignores_inputs([_drawn(0.0, 0.0), _drawn(0.0, 0.0)])
    assert ignores_inputs([_drawn(0.5), _drawn(0.5 + 1e-6), _drawn(9.0, side=2)])
    assert not ignores_inputs([_drawn(0.5), _drawn(0.6)])
    assert ignores_inputs([_drawn(*[1.0] * 5), _drawn(*[1.0] * 4, 2.0)])
    assert not ignores_inputs([_drawn(*[1.0] * 4), _drawn(*[1.0] * 3, 2.0)])


def test_draws_go_together_as_far_as_a_message_holds_them() -> None:
    assert batches([0, 0, 0], 10) == [[0, 1, 2]]
    assert batches([6, 5, 4, 30, 1], 10) == [[0], [1, 2], [3], [4]]


def test_tasks_are_a_list_or_a_text() -> None:
    assert TritonKernelEnvironment(tasks="relu").spec == TritonKernelEnvironment(tasks=["relu"]).spec
    assert TritonKernelEnvironment(tasks="relu, softmax").spec.parameters["tasks"] == ["relu", "softmax"]
    with pytest.raises(ConfigurationError, match="no task 'rlu'"):
        TritonKernelEnvironment(tasks="rlu")
    with pytest.raises(ConfigurationError, match="tasks are names"):
        TritonKernelEnvironment(tasks=3)  # type: ignore[arg-type]


def test_a_gpu_that_is_not_there_is_said_before_anything_is_loaded() -> None:
    with pytest.raises(EnvironmentUnavailableError, match="cannot be timed on GPU 998"):
        need_gpus([998])
    need_gpus(range(gpu_count()))
    program = (
        "import sys\nfrom grail_envs.cli import main\n"
        "try:\n    main(['time', 'triton_kernel', '--seed', '3', '--completion', '-'])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    on = {
        "KERNEL_EVAL_BACKEND": "persistent",
        "GRAIL_GPU_EVAL": "1",
        "KERNEL_EVAL_GPU_IDS": "998",
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", program], input="", capture_output=True, text=True, env=on, check=False)
    assert done.stdout == "7 False\n"
    assert "Traceback" not in done.stderr


def test_the_right_answer_of_the_other_tests_is_read() -> None:
    assert read_answer(RIGHT).problem == ""
