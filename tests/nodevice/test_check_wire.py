"""What crosses between the processes, and what a hostile description may not do."""

import os
import weakref

import pytest
import torch

from modelnew.check import wire
from modelnew.check.wire import Drawn, Reader, WireError, Writer


def round_trip(folder, value):
    return Reader(folder).value(Writer(folder).describe(value))


@pytest.mark.parametrize(
    "value", [None, True, 3, "text", 0.1, float("inf"), torch.bfloat16, [1, (2.5, None)], {"a": [1]}]
)
def test_plain_values(tmp_path, value):
    assert round_trip(tmp_path, value) == value


def test_tensors_keep_strides_offsets_and_shared_storage(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    values = [
        base,
        base.t(),
        base[1:, 2:5],
        base[:1].expand(4, 6),
        torch.empty(0, 3),
        torch.tensor(7, dtype=torch.int8),
    ]
    found = round_trip(tmp_path, values)
    for old, new in zip(values, found, strict=True):
        assert torch.equal(old, new) and old.stride() == new.stride() and old.storage_offset() == new.storage_offset()
    found[0][1, 2] = -1
    assert found[2][0, 0] == -1  # one storage, as before


@pytest.mark.parametrize("shared", [True, False])
def test_only_what_maps_its_files_sees_later_writes(tmp_path, shared):
    described = Writer(tmp_path).describe(torch.zeros(4))
    found = Reader(tmp_path, shared=shared).value(described)
    with (tmp_path / "0.bin").open("r+b") as file:
        file.write(b"\xff")
    assert bool(found.view(torch.uint8)[0] == 255) is shared


def test_a_file_that_is_none_is_refused_and_links_are_not_followed(tmp_path):
    described = Writer(tmp_path).describe(torch.zeros(4))
    secret, file = tmp_path / "secret", tmp_path / "0.bin"
    file.rename(secret)
    file.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"):
        Reader(tmp_path).value(described)
    Writer(tmp_path).describe(torch.ones(4))  # takes the link's place
    assert not file.is_symlink() and secret.read_bytes() == bytes(16)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(WireError, match="no plain file"):  # and does not wait for a writer
        Reader(tmp_path).value(described)


@pytest.mark.parametrize("value", [object(), torch.zeros(2, dtype=torch.complex64), {1, 2}])
def test_what_cannot_cross_says_so(tmp_path, value):
    with pytest.raises(WireError, match="cannot be handed"):
        Writer(tmp_path).describe(value)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [5, 4]},
        {"stride": [400, 1]},
        {"offset": 1},
        {"offset": -1},
        {"tensor": "../0.bin"},
        {"dtype": "float64"},
    ],
)
def test_a_description_that_reaches_outside_its_file_is_refused(tmp_path, change):
    described = Writer(tmp_path).describe(torch.zeros(4, 4)) | change
    with pytest.raises(WireError):
        Reader(tmp_path).value(described)


def test_drawn_tensors_are_the_same_on_both_sides_without_a_file(tmp_path):
    wanted = Drawn((3, 5), torch.float16, 7)
    (found,) = round_trip(tmp_path, [wanted])
    assert found.shape == (3, 5) and found.dtype == torch.float16
    assert torch.equal(found, wanted.on(torch.device("cpu"))) and not any(tmp_path.iterdir())
    assert not torch.equal(found, Drawn((3, 5), torch.float16, 8).on(torch.device("cpu")))


def test_the_bytes_of_a_tensor_keep_it_alive():
    """What a GPU's tensor is copied to has no other owner."""
    data = torch.arange(251, dtype=torch.uint8).repeat(1 << 14)
    kept = weakref.ref(data)
    view = wire._memory(data)
    del data
    assert kept() is not None and bytes(view[:251]) == bytes(range(251))
    del view
    assert kept() is None
