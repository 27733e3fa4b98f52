"""Public functions that load their module at first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType


def install(package: str, home: str, names: Sequence[str]) -> None:
    """Makes `package.NAME` mean `home.NAME` for each of `names`, importing `home` when one is first asked for.

    It stays the function when a room of the same name is imported: `import modelnew.check` would otherwise set
    `modelnew.check` to the module.
    """

    class Package(ModuleType):
        def __getattr__(self, name: str) -> object:
            if name not in names:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            value = getattr(importlib.import_module(home), name)
            super().__setattr__(name, value)
            return value

        def __setattr__(self, name: str, value: object) -> None:
            if not (name in names and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    sys.modules[package].__class__ = Package
