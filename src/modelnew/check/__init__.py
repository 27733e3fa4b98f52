"""Is a replacement the same model? Judged against the float64 truth, independent of how the replacement was made.

Imported at first use, so that the candidate's process does not wait for the judge.
"""

from typing import TYPE_CHECKING

from modelnew import _lazy

if TYPE_CHECKING:
    from modelnew.check.public import SCHEMA, CaseResult, Report, check_file, check_files, check_module, junit

__all__ = ["SCHEMA", "CaseResult", "Report", "check_file", "check_files", "check_module", "junit"]

_lazy.install(__name__, "modelnew.check.public", __all__)
