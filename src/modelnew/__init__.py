"""A PyTorch model in, the same model on custom fused kernels out.

    import modelnew
    fast = modelnew.optimize(model, *example_inputs)

The functions are imported from `modelnew.api` at first use, so that `modelnew --help` does not wait for torch.
"""

from typing import TYPE_CHECKING

from modelnew import _lazy
from modelnew.errors import ModelnewError

if TYPE_CHECKING:
    from modelnew.api import bench, check, explain, optimize

__version__ = "0.1.0"
__all__ = ["ModelnewError", "__version__", "bench", "check", "explain", "optimize"]

_lazy.install(__name__, "modelnew.api", ("bench", "check", "explain", "optimize"))
