"""Timing: variants of a model against each other and against what the hardware allows."""

from modelnew.bench.files import bench_file
from modelnew.bench.floor import Floor, Work, floor
from modelnew.bench.inprocess import bench_modules
from modelnew.bench.report import Report, Row

__all__ = ["Floor", "Report", "Row", "Work", "bench_file", "bench_modules", "floor"]
