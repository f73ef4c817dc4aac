"""A study as one HTML page that needs nothing else: no network, no fonts, no scripts of others. See README.md."""

from __future__ import annotations

from dipc.report.html.page import study_page, write_page
from dipc.report.html.report import write_report

__all__ = ["study_page", "write_page", "write_report"]
