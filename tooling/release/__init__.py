"""Releases of the five wheels: what is to be released, how it is built and signed, how anybody verifies it from its files.

`hatch run release plan | bump | build | sign | verify | dry-run`. Nothing here uploads anything, tags anything or commits
anything: what a person does with the folder is said at the end of each command (docs/releases.md).
"""
