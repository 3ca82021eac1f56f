"""Names for the protocol's ids. All are plain ints and bytes at run time; the type checker keeps them apart."""

from __future__ import annotations

from typing import NewType

Hotkey = NewType("Hotkey", bytes)  # 32 bytes, an sr25519 public key; SS58 text exists only at the edges
Digest = NewType("Digest", bytes)  # 32 bytes
Signature = NewType("Signature", bytes)  # 64 bytes, sr25519
Block = NewType("Block", int)
Window = NewType("Window", int)  # a window is named by its first block T, a multiple of WINDOW_LENGTH
