"""The user's code travels whole, without what its ignore files name, as the same bytes for the same files."""

import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest

from tuner.errors import SpecError
from tuner.jobs import code_archive as bundle
from tuner.jobs.code_archive import pack, unpack


def folder_of(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def names(packed: bytes) -> set[str]:
    return set(zipfile.ZipFile(BytesIO(packed)).namelist())


def test_what_is_packed_comes_out_the_same(tmp_path: Path) -> None:
    files = {"net.py": "a", "parts/block.py": "b", "parts/notes.txt": "ä"}
    unpack(pack(folder_of(tmp_path / "here", files)), tmp_path / "there")
    assert {name: (tmp_path / "there" / name).read_text() for name in files} == files


def test_the_same_files_are_the_same_bytes_whenever_they_were_written(tmp_path: Path) -> None:
    files = {"b.py": "b", "a.py": "a"}
    one, other = folder_of(tmp_path / "1", files), folder_of(tmp_path / "2", dict(reversed(files.items())))
    os.utime(one / "a.py", (1e9, 1e9))
    assert pack(one) == pack(other)
    (other / "a.py").write_text("changed")
    assert pack(one) != pack(other)


def test_ignore_files_hold_for_what_lies_below_them_and_the_nearest_decides(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        {
            ".gitignore": "data/\n*.log\n!keep.log\n",
            "net.py": "",
            "a.log": "",
            "keep.log": "",
            "data/images": "",
            "sub/.rayignore": "big.bin\n",
            "sub/big.bin": "",
            "sub/b.py": "",
            "sub/.gitignore": "!c.log\n",
            "sub/c.log": "",
            "other/big.bin": "",
            ".git/config": "",
            "__pycache__/net.pyc": "",
        },
    )
    kept = {name for name in names(pack(folder)) if "ignore" not in name}
    assert kept == {"net.py", "keep.log", "sub/b.py", "sub/c.log", "other/big.bin"}


def test_what_is_too_large_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MOST_BYTES", 10)
    with pytest.raises(SpecError, match=r"code: .* holds more than 10 bytes.*\.rayignore"):
        pack(folder_of(tmp_path, {"a": "12345678901"}))


def test_nothing_that_is_unpacked_leaves_the_folder(tmp_path: Path) -> None:
    evil = BytesIO()
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../outside", "x")
        archive.writestr("/absolute", "x")
    unpack(evil.getvalue(), tmp_path / "in" / "here")
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {"in/here/outside", "in/here/absolute"}
