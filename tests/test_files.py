"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from slslib.errors import FileError
from slslib.files import write_text
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
