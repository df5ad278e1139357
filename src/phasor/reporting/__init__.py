"""report.json, its schema, the data behind the plots, and report.html: one page that can be mailed."""

from phasor.reporting.document import RunReport
from phasor.reporting.page import role_page
from phasor.reporting.write import write_report

__all__ = ["RunReport", "role_page", "write_report"]
