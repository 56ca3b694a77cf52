"""Tables of people's own data: read strictly, and never quoted in an error."""

from __future__ import annotations

from .check import Report, check
from .tables import Problem, Table, TableError, read_table

__all__ = ["Problem", "Report", "Table", "TableError", "check", "read_table"]
