"""From the result store to a report: statistics, tables, figures, and one HTML page. Never imports torch."""

from reports.report import Report, render

__all__ = ["Report", "render"]
