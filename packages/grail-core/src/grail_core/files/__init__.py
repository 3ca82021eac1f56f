"""Bytes at rest: what miners and validators store, written and read. No decision is made here."""
