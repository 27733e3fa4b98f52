"""Models whose Python decides by the inputs' sizes, ranks or strides: each decision gives what eager's does."""

import pytest
import torch
from torch import nn

import modelnew
from modelnew.errors import CaptureError

CAPTURED = torch.randn(4, 6)
GIVEN = [
    torch.randn(100, 6),
    torch.randn(5, 6),
    torch.randn(8, 6),
    torch.randn(4, 7),
    torch.randn(1, 6),
    torch.randn(6, 4).t(),
    torch.randn(4, 12)[:, :6],
    torch.randn(5, 6)[1:],
    torch.randn(0, 6),
    torch.randn(7),
    torch.randn(2, 3, 6),
    torch.randn(1, 1, 1, 1, 2, 3),
    torch.tensor(1.0),
]
CONDITIONS = {
    "a bound on a size": lambda x: x.dim() < 2 or x.shape[0] < 100,
    "a size that is left out": lambda x: x.dim() < 1 or x.shape[-1] != 7,
    "divisibility": lambda x: x.dim() < 1 or x.shape[0] % 4 == 0,
    "the number of elements": lambda x: x.numel() < 100,
    "whether there are any": lambda x: bool(x.numel()),
    "contiguity": lambda x: x.is_contiguous(),
    "a stride": lambda x: x.dim() < 2 or x.stride(0) == 6,
    "an offset": lambda x: x.storage_offset() == 0,
    "a rank": lambda x: x.dim() != 3,
    "a large rank": lambda x: x.dim() < 6,
}


class Branch(nn.Module):
    def __init__(self, condition, function):
        super().__init__()
        self.condition, self.function = condition, function

    def forward(self, *inputs):
        result = self.function(*inputs)
        return result * 2 + 1 if self.condition(*inputs) else result - 5


def agrees(model, new, *inputs):
    with torch.no_grad():
        expected, result = model(*inputs), new(*inputs)
    torch.testing.assert_close(result, expected)
    assert [t.shape for t in torch.utils._pytree.tree_leaves(result)] == [
        t.shape for t in torch.utils._pytree.tree_leaves(expected)
    ]


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("function", [torch.sigmoid, lambda x: x.softmax(-1)], ids=["pointwise", "rows"])
def test_a_branch_is_taken_as_eager_takes_it(name, function):
    model = Branch(CONDITIONS[name], function)
    new = modelnew.optimize(model, CAPTURED)
    for given in (CAPTURED, *GIVEN):
        agrees(model, new, given)
    assert sum(new.kernels.calls.values()) >= 1


@pytest.mark.parametrize(
    "condition", [lambda x, y: x.dim() == y.dim(), lambda x, y: x.shape == y.shape], ids=["ranks", "shapes"]
)
def test_a_comparison_of_two_inputs(condition):
    model = Branch(condition, torch.add)
    new = modelnew.optimize(model, CAPTURED, torch.randn(4, 6))
    for y in (torch.randn(4, 6), torch.randn(6), torch.randn(1, 6), torch.randn(2, 4, 6)):
        agrees(model, new, CAPTURED, y)


def test_pieces_are_as_many_as_the_size_gives():
    model = Branch(lambda x: x.dim() == 2, lambda x: torch.stack([y.sigmoid().sum() for y in x.split(2)]))
    new = modelnew.optimize(model, torch.randn(4, 6))
    for rows in (4, 5, 2, 1):
        agrees(model, new, torch.randn(rows, 6))


def test_a_view_that_strides_do_not_allow_is_refused_as_eager_does():
    model = Branch(lambda x: True, lambda x: x.view(-1).sigmoid())
    new = modelnew.optimize(model, CAPTURED)
    agrees(model, new, torch.randn(3, 5))
    with torch.no_grad(), pytest.raises(RuntimeError, match="view"):
        new(torch.randn(5, 3).t())


@pytest.mark.parametrize("function", [lambda x: x.sum(-1).squeeze(), lambda x: x.softmax(-1).squeeze(0)])
def test_a_squeeze_of_open_sizes(function):
    model = Branch(lambda x: True, function)
    new = modelnew.optimize(model, torch.randn(4, 3, 5))
    for shape in ((4, 3, 5), (1, 3, 5), (1, 1, 5)):
        agrees(model, new, torch.randn(shape))


class Attribute(nn.Module):
    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def forward(self, x):
        return torch.sigmoid(x) * (self.kept if isinstance(self.kept, torch.Tensor) else self.kept[0])


def test_a_tensor_may_be_a_plain_attribute():
    model = Attribute(torch.arange(6.0))
    agrees(model, modelnew.optimize(model, CAPTURED), torch.randn(3, 6))


def test_a_tensor_in_a_list_is_an_error_that_says_so():
    with pytest.raises(CaptureError, match="register_buffer"):
        modelnew.optimize(Attribute([torch.ones(6)]), CAPTURED)


def test_tangents_are_not_lost():
    model = Branch(lambda x: True, torch.sigmoid)
    new = modelnew.optimize(model, CAPTURED)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(CAPTURED, torch.ones_like(CAPTURED))
        expected = torch.autograd.forward_ad.unpack_dual(model(dual)).tangent
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(new(dual)).tangent, expected)


def test_memory_that_two_arguments_share_is_written_as_eager_does():
    model = Branch(lambda x, y: True, lambda x, y: x.mul_(2).sum() + y.sigmoid())
    new = modelnew.optimize(model, torch.ones(4), torch.ones(4))
    for make in (lambda a: (a, a), lambda a: (a[:4], a[2:]), lambda a: (a[:4], a[4:])):
        theirs, ours = torch.ones(8), torch.ones(8)
        try:
            expected = model(*make(theirs))
        except RuntimeError:  # eager's own: shapes that do not broadcast
            continue
        with torch.no_grad():
            torch.testing.assert_close(new(*make(ours)), expected)
        assert torch.equal(ours, theirs)


def test_a_branch_on_what_autograd_would_record():
    model = Branch(lambda x: not x.requires_grad, torch.sigmoid)
    new = modelnew.optimize(model, CAPTURED)
    for given in (CAPTURED, CAPTURED.clone().requires_grad_()):
        agrees(model, new, given)


def test_a_forward_that_was_patched_is_called():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    new = modelnew.optimize(model, CAPTURED)
    new[0].forward = lambda x: x - 1
    with torch.no_grad():
        assert torch.equal(new(CAPTURED), (CAPTURED - 1).relu())


class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 6, padding_idx=0)

    def forward(self, positions):
        return self.table(positions).softmax(-1)


def test_an_embedding_is_looked_up():
    model = Lookup()
    new = modelnew.optimize(model, torch.arange(4))
    for positions in (torch.arange(4), torch.tensor([[0, 9], [3, 3]])):
        agrees(model, new, positions)
    assert sum(new.kernels.calls.values()) >= 1


def test_sizes_that_decompositions_need_as_numbers():
    model = Branch(lambda x: True, lambda x: torch.nn.functional.pad(x, (0, (-x.shape[-1]) % 4)).softmax(-1))
    new = modelnew.optimize(model, CAPTURED)
    for shape in ((4, 6), (3, 8), (2, 5)):
        agrees(model, new, torch.randn(shape))


def test_a_branch_on_grad_mode():
    """Also where nothing needs a gradient; a model without one keeps its kernels in grad mode."""
    model = Branch(lambda x: torch.is_grad_enabled(), torch.sigmoid)
    new, plain = modelnew.optimize(model, CAPTURED), modelnew.optimize(nn.Sigmoid(), CAPTURED)
    agrees(model, new, CAPTURED)
    assert sum(new.kernels.calls.values()) == 1
    with torch.enable_grad():
        torch.testing.assert_close(new(CAPTURED), model(CAPTURED))
        plain(CAPTURED)
    assert sum(new.kernels.calls.values()) == 1
    assert sum(plain.kernels.calls.values()) == 1
