"""Files that are written: whole or not at all, through links, pipes and devices, and never in place of one of these."""

from __future__ import annotations

import errno
import os
import pty
import stat
import threading
from pathlib import Path

import pytest

from dipc.errors import UsageError
from dipc.files import check_output_file, file_lock, whole_folder, write_whole


def write(path: Path, content: str = "new") -> None:
    write_whole(path, lambda part: part.write_text(content))


def left(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("old")
    (tmp_path / "there" / "first").symlink_to("file")
    (tmp_path / "second").symlink_to("there/first")
    (tmp_path / "folder").symlink_to("there")
    for path, content in ((tmp_path / "second", "1"), (tmp_path / "folder" / "first", "2")):
        write(path, content)
        assert (tmp_path / "there" / "file").read_text() == content
    assert os.readlink(tmp_path / "second") == "there/first" and os.readlink(tmp_path / "there" / "first") == "file"
    assert left(tmp_path) == {"there", "second", "folder"} and left(tmp_path / "there") == {"file", "first"}


def test_a_link_to_nothing_makes_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    check_output_file(tmp_path / "link", new=True)
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    (tmp_path / "astray").symlink_to(tmp_path / "no" / "file")
    for act in (check_output_file, write):
        with pytest.raises(UsageError, match=r"astray: (there is no folder .*no|cannot be written: No such file)"):
            act(tmp_path / "astray")


def test_a_circle_of_links_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-folder").symlink_to("folder")
    for act in (check_output_file, write):
        with pytest.raises(UsageError, match="a: cannot be written: Too many levels of symbolic links"):
            act(tmp_path / "a")
        for name in ("folder", "to-folder"):
            with pytest.raises(UsageError, match=f"{name}: cannot be written: it is a folder; name a file"):
                act(tmp_path / name)
    assert left(tmp_path) == {"a", "b", "folder", "to-folder"} and left(tmp_path / "folder") == set()


@pytest.mark.parametrize("through", ["itself", "link"])
def test_a_pipe_is_written_to_and_stays(tmp_path: Path, through: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe if through == "itself" else tmp_path / "link", "x" * 300_000)
    reader.join()
    assert read == ["x" * 300_000] and stat.S_ISFIFO(pipe.lstat().st_mode)
    assert left(tmp_path) == {"pipe", "link"} and (tmp_path / "link").is_symlink()


def test_a_character_device_is_written_to_and_stays(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    device = Path(os.ttyname(theirs))
    (tmp_path / "link").symlink_to(device)
    try:
        for path in (device, tmp_path / "link"):
            check_output_file(path, new=True)
            write(path, "words")
            assert os.read(ours, 100) == b"words"
        assert stat.S_ISCHR(device.stat().st_mode) and left(tmp_path) == {"link"}
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_open_file_is_written_to_where_it_is(tmp_path: Path) -> None:
    """`-o /dev/stdout > file`, and `-o /dev/fd/9 9> file`."""
    file = tmp_path / "file"
    with file.open("wb") as opened:
        opened.write(b"first ")
        opened.flush()
        write(Path(f"/dev/fd/{opened.fileno()}"), "then")
        assert os.path.samestat(os.fstat(opened.fileno()), file.stat())
    assert file.read_text() == "first then"


def test_what_is_replaced_keeps_its_mode_and_its_name_may_be_long(tmp_path: Path) -> None:
    file = tmp_path / ("ü" * 127)
    file.write_text("old")
    file.chmod(0o640)
    write(file)
    assert file.read_text() == "new" and stat.S_IMODE(file.stat().st_mode) == 0o640


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UsageError, match="file: cannot be written: No space left on device"):
        write_whole(file, fail)
    assert file.read_text() == "old" and left(tmp_path) == {"file"}
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        write(file / "below")
    with pytest.raises(UsageError, match=r"below: (there is no folder|cannot be written)"):
        check_output_file(file / "below")


def test_a_file_that_is_read_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    (tmp_path / "link").symlink_to(file)
    for out, read in (("file", "file"), ("link", "file"), ("file", "link")):
        with pytest.raises(UsageError, match=f"--to .*{out}: is read for this as well"):
            check_output_file(tmp_path / out, option="--to", inputs=[None, "demo", tmp_path / read])
    check_output_file(tmp_path / "file", inputs=[None, "demo", tmp_path / "other"])
    with pytest.raises(UsageError, match="exists"):
        check_output_file(tmp_path / "file", new=True)


def test_a_folder_is_never_written_in_place_of_something(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("pipe", "link"):
        with pytest.raises(UsageError, match="exists; choose another folder"), whole_folder(tmp_path / name):
            pass
    assert left(tmp_path) == {"pipe", "link"}


def test_a_lock_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(UsageError, match="lock: cannot be written: Is a directory"), file_lock(tmp_path / "lock"):
        pass
