"""A live module on kernels: the written file, imported, with the module's own parameters."""

from __future__ import annotations

import functools
import hashlib
import linecache
import types
import weakref
from typing import Any, SupportsIndex

from torch import nn

from modelnew import __version__
from modelnew.render.file import Origin

_LOADED: weakref.WeakValueDictionary[tuple[str, type[nn.Module]], type[nn.Module]] = weakref.WeakValueDictionary()


def load_source(text: str, model_class: type[nn.Module]) -> type[nn.Module]:
    """The ModelNew of an optimised file's text, derived from `model_class`; the same class as long as it is in use.

    Tracebacks show the text's lines. Its instances are pickled as this text, the model's class and their state.
    """
    known = _LOADED.get((text, model_class))
    if known is not None:
        return known
    name = f"modelnew_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    filename = f"<{name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = types.ModuleType(name)
    module.__dict__["Model"] = model_class
    exec(compile(text, filename, "exec"), module.__dict__)
    found: Any = module.__dict__["ModelNew"]
    found.source = text
    found.__reduce_ex__ = functools.partialmethod(_reduce, model_class)
    _LOADED[text, model_class] = found
    return found  # type: ignore[no-any-return]


def _reduce(module: nn.Module, model_class: type[nn.Module], protocol: SupportsIndex) -> tuple[Any, ...]:
    """How pickle takes a module apart: no file has its class, so that is made again from its text."""
    parts: Any = object.__reduce_ex__(module, protocol)
    _, _, *state = parts
    return (_made_again, (type(module).source, model_class), *state)  # type: ignore[attr-defined]


def _made_again(text: str, model_class: type[nn.Module]) -> nn.Module:
    optimised = load_source(text, model_class)
    return optimised.__new__(optimised)


def live_origin(model: nn.Module) -> Origin:
    """What the text of a live module's kernels says of where it comes from."""
    name = type(model).__name__
    comment = f"# Model is the class {type(model).__module__}.{type(model).__qualname__} of the module that was given."
    return Origin(name, None, f"modelnew.optimize({name}(…), …)", __version__, imports=comment)


def wrap(model: nn.Module, optimised: type[nn.Module]) -> nn.Module:
    """`model` as an instance of its optimised class. Both are one module with two forwards: parameters, buffers,
    submodules and hooks are shared, so that `.to()`, `load_state_dict` or a training step on either is seen by both."""
    new = optimised.__new__(optimised)
    new.__dict__.update(model.__dict__)
    return new
