"""The adversaries of the threat model, runnable: `python -m tooling.adversaries` prints what each tried and what became of it.

Each module `family_*.py` has `ATTACKS`, a mapping from the id of a threat to a function that gives its row; it may take the
keywords `seed` and `tries`.
"""
