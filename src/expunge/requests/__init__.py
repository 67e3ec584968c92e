"""What must go and what must stay: loading and checking the user's files."""

from expunge.requests.request import Request, load_rows
from expunge.requests.rows import Row

__all__ = ["Request", "Row", "load_rows"]
