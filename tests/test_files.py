import errno
import os
import resource
import signal
import subprocess
import sys

import pytest

from monai_fusenet.data.datalist import holds_results
from monai_fusenet.utils.files import CannotWriteError, alone_in, atomic_path, content_digest


def test_file_appears_under_its_name_only_when_complete(tmp_path):
    target = tmp_path / "volume.nii.gz"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
    assert target.read_text(encoding="utf-8") == "half"
    assert list(tmp_path.iterdir()) == [target]


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "scores.csv"
    target.write_text("old")

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_failure_before_the_first_byte_is_the_error_that_is_seen(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "mask.png"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    target = tmp_path / "a.png"
    with atomic_path(target) as temporary:
        pass_on = temporary
        temporary.write_text("whole")
    pass_on.write_text("half")  # as a process leaves it that is killed while it writes
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_text(encoding="utf-8") == "new"


def test_a_link_that_lies_in_the_way_is_not_followed(tmp_path):
    target, outside = tmp_path / "a.png", tmp_path / "outside"
    outside.write_text("untouched")
    with atomic_path(target) as temporary:
        temporary.touch()
    for link in (temporary, target):
        link.unlink(missing_ok=True)
        link.symlink_to(outside)
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert outside.read_text() == "untouched"
    assert target.read_text() == "new"
    assert not target.is_symlink()


def test_file_gets_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_results_of_an_earlier_version_are_known(tmp_path):
    (tmp_path / "summary.csv").write_text(
        "file,status,clusters,steps,seconds,mask_fraction,message\n", encoding="utf-8"
    )
    assert holds_results(tmp_path)
    (tmp_path / "summary.csv").write_text("file,status\n", encoding="utf-8")
    assert not holds_results(tmp_path)


def test_a_disk_that_is_full_is_told_by_file_folder_and_remedy(tmp_path):
    with pytest.raises(CannotWriteError) as caught, atomic_path(tmp_path / "a.png"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == (
        f"cannot write a.png into {tmp_path}: No space left on device; free space there, or choose another folder"
    )


def test_a_file_that_grows_beyond_the_limit_of_the_system(tmp_path):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with (
            pytest.raises(CannotWriteError, match="File too large; raise the limit"),
            atomic_path(tmp_path / "a") as half,
        ):
            half.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_made(tmp_path):
    with atomic_path(tmp_path / "new" / "folder" / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "new" / "folder" / "a.txt").read_text() == "whole"


def test_a_file_stands_where_the_folder_should_be(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError), atomic_path(tmp_path / "a" / "b.txt"):
        pass


def test_content_digest_of_files_and_folders(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "series" / "folder").mkdir(parents=True)
    (tmp_path / "series" / "1").write_bytes(b"one")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "series")
    (tmp_path / "series" / "2").write_bytes(b"two")
    assert content_digest(tmp_path / "a") != content_digest(tmp_path / "series")
    assert content_digest([str(tmp_path / "a"), tmp_path / "series" / "2"]) == content_digest(tmp_path / "series")


def test_one_process_at_a_time_is_in_a_folder(tmp_path):
    """And a killed one leaves nothing: its lock is the system's."""
    folder = str(tmp_path / "out")
    code = f"from monai_fusenet.utils.files import alone_in\nwith alone_in({folder!r}): print('in', flush=True)"
    with alone_in(tmp_path / "out"):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert other.stdout == ""
        assert f"ValueError: another run is writing into {tmp_path / 'out'}: wait for its end" in other.stderr
    holding = subprocess.Popen([sys.executable, "-c", f"{code}; input()"], stdin=-1, stdout=-1, text=True)
    assert holding.stdout.readline() == "in\n"
    with pytest.raises(ValueError, match=r"^another run is writing into "), alone_in(tmp_path / "out"):
        pass
    holding.kill()
    holding.wait()
    with alone_in(tmp_path / "out"):
        assert list((tmp_path / "out").iterdir()) == []
