from pathlib import Path

import pytest
import torch

from tests.cuda import product_kernels

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Every test here needs a GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def room():
    """What a test leaves in PyTorch's memory pool is given back, since some need most of the GPU's."""
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def in_fp32():
    """For products on the tensor cores, beside the library's in plain fp32."""
    torch.manual_seed(5)
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture
def hopper(in_fp32):
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("these products are for compute capability 9.0")


@pytest.fixture(params=product_kernels.TILES)
def kind(request, monkeypatch, in_fp32):
    """The kernel that products are computed by."""
    if not product_kernels.covered(request.param, torch.cuda.get_device_capability()):
        pytest.skip(f"{request.param} is not for this GPU")
    monkeypatch.setattr(product_kernels, "chosen", request.param)
