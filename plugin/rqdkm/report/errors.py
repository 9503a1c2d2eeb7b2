"""Errors of reading and writing reports."""

from __future__ import annotations

from rqdkm_tvm.errors import RqdkmError


class ReportError(RqdkmError):
    """A report that is missing, damaged, of another version, or contradicts itself."""
