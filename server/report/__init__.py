"""The report of a run: one HTML page, and its figures as SVG beside their data as CSV."""

from server.report.examples import Example, write_examples
from server.report.page import write

__all__ = ["Example", "write", "write_examples"]
