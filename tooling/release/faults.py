"""What goes wrong with a release, as errors that a person can act on. Which of the two it is decides the exit code."""

from __future__ import annotations

from grail_core.errors import ConfigurationError, ProtocolViolationError


class ReleaseRefusedError(ConfigurationError):
    """The tree, a changelog, a version or a key is not fit for a release."""


class NotTheReleaseError(ProtocolViolationError):
    """A folder of files is not the release that it says it is."""
