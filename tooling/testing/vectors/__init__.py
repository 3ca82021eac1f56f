"""The published test vectors: `python -m tooling.testing.vectors` writes tests/vectors, `--check` compares instead.

The vectors are made by the executable specification and are public interface: another implementation that reproduces them
speaks the same protocol. Inputs come from one fixed SHAKE-256 stream per file, so regeneration gives the same bytes on any
machine. Bytes are lower-case hex, 64-bit words and larger integers decimal text, floats twelve significant digits (the last
bits of a logarithm are the platform's).
"""
