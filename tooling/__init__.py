"""Tools around the five packages: localnet, adversaries, studies, the test kit. Never shipped in a wheel."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
"""The project's root: where docs, vectors and packages lie."""
