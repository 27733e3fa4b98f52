"""Where results go: never over another's file, never half."""

import os

import pytest

from modelnew.errors import OutputError, UsageError
from modelnew.outputs import MARK, default_output, rejected_name, report_name, require_writable, write


@pytest.fixture
def reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ref.py"
    path.write_text("# a reference\n")
    return path


def test_names_follow_the_reference_and_the_output(tmp_path):
    output = default_output(tmp_path / "any" / "soft.max.py")
    assert str(output) == "soft.max_new.py"
    assert rejected_name(output).name == "soft.max_new.rejected.py"
    assert report_name(output).name == "soft.max_new.report.json"


def test_a_new_file_and_one_of_ours_may_be_written(reference, tmp_path):
    output = tmp_path / "out.py"
    require_writable(output, reference, force=False)
    output.write_text(f'"""{MARK} 0.1."""\n')
    require_writable(output, reference, force=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.py", "ref.py"], "the test for writing leaves nothing"


def test_anothers_file_is_replaced_only_by_force(reference, tmp_path):
    output = tmp_path / "out.py"
    output.write_text("precious = 1\n")
    with pytest.raises(UsageError, match="--force"):
        require_writable(output, reference, force=False)
    require_writable(output, reference, force=True)
    assert output.read_text() == "precious = 1\n"


@pytest.mark.parametrize("link", [False, True])
def test_the_reference_is_never_replaced(reference, tmp_path, link):
    output = tmp_path / "same.py" if link else reference
    if link:
        output.symlink_to(reference)
    with pytest.raises(UsageError, match="is a file to be read"):
        require_writable(output, reference, force=True)


def test_a_folder_is_no_output(reference, tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        require_writable(tmp_path, reference, force=True)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing/out.py", "there is no folder"),
        ("ref.py/out.py", "there is no folder"),
        ("/proc/out.py", "no file can be made in /proc"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_first(reference, tmp_path, place, reason):
    output = tmp_path / place
    with pytest.raises(OutputError, match=f"cannot write here: {reason}"):
        require_writable(output, reference, force=False)
    with pytest.raises(OutputError, match="cannot be written"):
        write(output, "text")


def test_a_result_is_written_whole_with_the_usual_permissions(tmp_path):
    output = tmp_path / "out.py"
    output.write_text("old")
    write(output, "größe = 1\n")
    assert output.read_bytes() == "größe = 1\n".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert output.stat().st_mode & 0o777 == 0o666 & ~mask
    assert [p.name for p in tmp_path.iterdir()] == ["out.py"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    output = tmp_path / "out.py"
    output.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write(output, "half\ud800")
    assert output.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.py"]
