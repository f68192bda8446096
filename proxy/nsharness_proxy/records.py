"""Log records become events, too. Apart from ``report``, which is there before anything that keeps a log."""

from __future__ import annotations

import logging

from nsharness_proxy.report import Level, Report, describe


def capture_records(report: Report) -> None:
    """Send every log record through ``report`` that would otherwise be printed."""
    root = logging.getLogger()
    root.handlers[:] = [_Records(report)]
    root.setLevel(logging.WARNING)
    # It quotes requests and tracebacks of its own accord; what matters of it is reported by the handler.
    logging.getLogger("mitmproxy").disabled = True
    logging.raiseExceptions = False


class _Records(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        self._report.log(level, f"{record.name}, {record.module}:{record.lineno}: {describe(error)}")
