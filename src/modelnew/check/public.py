"""What `modelnew.check` offers, in one module."""

from modelnew.check.file import check_file, check_files
from modelnew.check.live import check_module
from modelnew.check.report import SCHEMA, CaseResult, Report, junit

__all__ = ["SCHEMA", "CaseResult", "Report", "check_file", "check_files", "check_module", "junit"]
