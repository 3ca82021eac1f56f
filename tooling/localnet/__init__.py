"""The whole subnet on one machine, in one command: `python -m tooling.localnet`.

A chain producing blocks, a beacon, object storage, a trainer publishing checkpoints, miners (one may cheat) and
validators, each a process of its own started through its public command line and settings. At the end a table,
`summary.json` and `report.html`. Nothing here is imported by a shipped wheel; nothing here decides anything the roles
decide themselves.
"""
