"""`.contiguous()`, and reshapes that copy, inside a kernel: the values and the strides of eager, whatever the input's layout."""

import pytest
import torch
import torch.nn.functional as F

from tests.compiled import Function, compiled

X, Y, Z = torch.randn(6, 10), torch.randn(10, 6), torch.randn(2, 3, 4, 5)
CASES = {
    "last": (lambda s, x: torch.sigmoid(x.t()).contiguous(), X),
    "first": (lambda s, x: torch.sigmoid(x.t().contiguous()), X),
    "before another operand": (lambda s, x, y: torch.sigmoid(x.t()).contiguous() + y, X, Y),
    "after another operand": (lambda s, x, y: y.t() * 2 + torch.sigmoid(x.t()).contiguous().t(), X, Y),
    "of more dims": (lambda s, z: F.relu(z.permute(0, 2, 1, 3)).contiguous(), Z),
    "alone": (lambda s, z: z.permute(0, 2, 1, 3).contiguous(), Z),
    "seen transposed again": (lambda s, x: torch.sigmoid(x.t()).contiguous().t() * 2, X),
    "for a sum": (lambda s, x: torch.sigmoid(x.t()).contiguous().sum(0), X),
    "of an expanded tensor": (lambda s, x: x[:, None, :].expand(6, 3, 10).contiguous() * 2, X),
}


def layouts(tensor):
    yield tensor
    yield tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield torch.cat([tensor, tensor], -1)[..., : tensor.shape[-1]]


@pytest.mark.parametrize("name", CASES)
def test_values_and_strides_are_eagers(name):
    function, *inputs = CASES[name]
    model = Function(function)
    new, program = compiled(model, inputs)
    assert len(program.kernels) == 1
    with torch.no_grad():
        for given in zip(*map(layouts, inputs), strict=True):
            expected, result = model(*given), new(*given)
            torch.testing.assert_close(result, expected)
            assert result.stride() == expected.stride()
    assert sum(new.kernels.calls.values()) == 3


def test_a_reshape_that_copies_is_no_kernel_of_its_own():
    model = Function(lambda s, z: F.relu(z.permute(0, 2, 1, 3)).reshape(2, 4, 15) * 2)
    new, program = compiled(model, [Z])
    assert len(program.kernels) == 1
    with torch.no_grad():
        torch.testing.assert_close(new(Z), model(Z))
        assert new(Z).stride() == model(Z).stride()


def test_what_is_stored_twice_lies_each_in_its_own_way():
    model = Function(lambda s, x: (torch.sigmoid(x.t()), torch.sigmoid(x.t()).contiguous()))
    new, _ = compiled(model, [X])
    with torch.no_grad():
        assert [result.stride() for result in new(X)] == [result.stride() for result in model(X)]
