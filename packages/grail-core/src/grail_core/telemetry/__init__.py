"""Structured logs: one event per decision, as JSON lines for machines and as short lines for people."""

from grail_core.telemetry.logs import EventLogger, configure, get_logger, record_traceback

__all__ = ["EventLogger", "configure", "get_logger", "record_traceback"]
