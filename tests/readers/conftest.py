"""What reads an export has an environment of its own, `hatch run readers:test`; elsewhere these tests are not collected."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("datasets") and find_spec("pandas") and find_spec("trl") else ["test_reading_examples.py"]
