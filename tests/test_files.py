"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from slslib.errors import CheckpointError, FileError, usable
from slslib.files import cache_root, corpora_root, lock, write_text, writing
from slslib.model.checkpoints import save_safetensors


def test_a_failed_write_keeps_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "d.safetensors"
    save_safetensors(path, {"x": torch.zeros(10)}, {})
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("slslib.files.os.fsync", full)
    with pytest.raises(FileError, match="No space left"):
        save_safetensors(path, {"x": torch.zeros(1000)}, {})
    with pytest.raises(FileError, match="No space left"):
        write_text(tmp_path / "best.json", "{}")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_killed_run_left_half_written_is_removed_when_it_goes_on(tmp_path):
    killed = (
        "import os, signal, sys\n"
        "from slslib.files import lock, writing\n"
        "with lock(sys.argv[1]), writing(sys.argv[1] + '/state.pt') as temporary:\n"
        "    temporary.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", killed, tmp_path])
    assert done.returncode == -signal.SIGKILL
    (tmp_path / ".own.tmp").touch()
    assert len(list(tmp_path.glob(".state.pt.*.tmp"))) == 1
    with lock(tmp_path), writing(tmp_path / "state.pt") as temporary:
        temporary.touch()
        assert {path.name for path in tmp_path.glob(".*.tmp")} == {".own.tmp", temporary.name}
    assert (tmp_path / "state.pt").exists()


def test_what_killed_processes_left_is_removed_when_something_is_written_there(tmp_path):
    """A file or a folder, of any name; not what another process, or machine, is writing."""
    killed = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from slslib.files import writing\n"
        "at = sys.argv[1]\n"
        "with writing(at + '/scores.txt') as file, writing(at + '/x') as folder:\n"
        "    file.touch()\n"
        "    folder.mkdir()\n"
        "    (folder / 'a').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    dead = subprocess.Popen([sys.executable, "-c", killed, tmp_path])
    assert dead.wait() == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    assert all(name.startswith((".scores.txt.", ".x.")) and str(dead.pid) in name for name in left)
    elsewhere = {f".x.{dead.pid}-01234567.tmp", ".own.tmp"}
    for name in elsewhere:
        (tmp_path / name).touch()
    with writing(tmp_path / "other") as temporary:
        temporary.touch()
        write_text(tmp_path / "done.txt", "x")
        there = {path.name for path in tmp_path.iterdir()}
        assert there == elsewhere | {temporary.name, "done.txt"}
    assert {path.name for path in tmp_path.iterdir()} == elsewhere | {"other", "done.txt"}


@pytest.mark.parametrize("number", ["1x", "9" * 20])
def test_a_name_with_a_number_that_no_process_has_is_in_nobodys_way(tmp_path, number):
    with writing(tmp_path / "x") as temporary:
        temporary.touch()
    own = temporary.name.split("-")[-1]
    (tmp_path / f".x.{number}-{own}").touch()
    write_text(tmp_path / "x", "done")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_a_live_process_of_another_namespace_is_writing_stays(tmp_path):
    """On the same disk, with the same name of the machine, a process has another number there."""
    unshare = ["unshare", "--pid", "--fork"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("no namespace can be made here")
    other = (
        "import sys\n"
        "from slslib.files import write_text\n"
        "write_text(sys.argv[1] + '/other.txt', 'x')"
    )
    with writing(tmp_path / "own.txt") as temporary:
        temporary.touch()
        subprocess.run([*unshare, sys.executable, "-c", other, tmp_path], check=True)
        assert {path.name for path in tmp_path.iterdir()} == {temporary.name, "other.txt"}


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "store" / "own.csv")
    write_text(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "store" / "own.csv").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="a device or a pipe"):
        write_text(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()


def test_a_run_that_takes_a_folder_leaves_alone_what_others_are_writing_there(tmp_path):
    """A score file or an export beside a training, on this machine or on another one."""
    others = {".notes.1.tmp", ".a.1-b.cdefgh.tmp", ".a.99999999-01234567.tmp"}
    for name in others:
        (tmp_path / name).touch()
    with writing(tmp_path / "scores.txt") as temporary:
        temporary.write_text("whole")
        with lock(tmp_path):
            write_text(tmp_path / "log.csv", "")
        assert temporary.exists()
    there = {path.name for path in tmp_path.iterdir()} - {".lock"}
    assert there == others | {"log.csv", "scores.txt"}
    assert (tmp_path / "scores.txt").read_text() == "whole"


@pytest.mark.parametrize(("hours", "stays"), [(20, True), (30, False)])
def test_what_another_machine_left_is_removed_after_a_day(tmp_path, hours, stays):
    """A container that is started again is another machine."""
    left = tmp_path / ".state.pt.1-2-01234567.tmp"
    left.touch()
    touched = time.time() - 3600 * hours
    os.utime(left, (touched, touched))
    write_text(tmp_path / "log.csv", "")
    assert left.exists() == stays


def test_a_home_may_be_written_short(monkeypatch):
    monkeypatch.setenv("SLSLIB_CACHE", "~/c")
    monkeypatch.setenv("SLSLIB_DATA", "~/d")
    assert (cache_root(), corpora_root()) == (Path.home() / "c", Path.home() / "d")


def test_a_file_that_cannot_be_read_now_is_not_called_damaged(tmp_path):
    for error in (MemoryError("cannot allocate memory"), PermissionError("not yours")):
        with (
            pytest.raises(CheckpointError, match="keep it"),
            usable(tmp_path / "state.pt", remedy="remove it to begin again"),
        ):
            raise error
