"""The evaluation harness has an environment of its own, `hatch run harness:test`; elsewhere these tests are not collected."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("lm_eval") else ["test_lm_eval.py"]
