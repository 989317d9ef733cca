"""Checkpoint files: any damaged file is refused, and only the right attempt deletes a file."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.s3 import BUCKET, s3_server
from trainables.errors import DiskFull
from trainables.file_store import Folder, files_at, inside
from trainables.training import checkpoints
from trainables.training.checkpoints import newest, save, write
from trainables.training.trainer import digest


def state_at(epoch: int) -> dict[str, Tensor]:
    """A small state with all that a real one has: a matrix, vectors, unusual types, numbers and an empty tensor."""
    return {
        "model.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) + epoch,
        "model.bias": torch.full((3,), 0.1, dtype=torch.bfloat16),
        "model.none": torch.empty(0, 4),
        "model.seen": torch.tensor([True, False, True]),
        "optimizer.0.step": torch.tensor(4.0 * epoch),
        "epoch": torch.tensor(epoch),
    }


def saved(folder: Folder, *files: tuple[int, int]) -> None:
    for epoch, attempt in files:
        save(folder, state_at(epoch), epoch, attempt)


def epochs(folder: Folder, accepted: Sequence[tuple[int, int]]) -> list[int]:
    """The epochs of the states that are found; each state is checked bit for bit."""
    found = list(newest(folder, accepted))
    assert all(digest(state) == digest(state_at(int(state["epoch"]))) for state in found)
    return [int(state["epoch"]) for state in found]


def names(folder: Folder) -> list[str]:
    return sorted(files_at(folder).names())


def put(folder: Folder, name: str, content: bytes = b"") -> None:
    """Write a file with any content, without ``save``."""
    files_at(folder).write(name, content, writer=0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket on a real server."""
    with s3_server():
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["on disk", "in a bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder of each kind."""
    if request.param == "on disk":
        return str(tmp_path)
    return inside(request.getfixturevalue("bucket"), tmp_path.name, "of", "a trial")


def flips(content: bytes) -> list[tuple[int, bytes]]:
    """Damaged copies of ``content``, each with one bit or one whole byte flipped: (the byte's index, the copy)."""
    masks = [1 << bit for bit in range(8)] + [0xFF]
    return [
        (at, content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
        for at in range(len(content))
        for mask in masks
    ]


def test_a_state_comes_back_bit_for_bit(folder: str) -> None:
    saved(inside(folder, "of", "a trial"), (1, 1))
    (found,) = newest(inside(folder, "of", "a trial"), [(1, 1)])
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {
        name: (value.dtype, value.shape) for name, value in state_at(1).items()
    }
    assert digest(found) == digest(state_at(1))


def test_a_files_header_gives_its_epoch_attempt_and_checksum(tmp_path: Path) -> None:
    saved(tmp_path, (7, 2))
    with safe_open(tmp_path / "000007-002.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"epoch": "7", "attempt": "2", "sha256": digest(state_at(7))}


def test_only_accepted_checkpoints_are_read_in_the_order_of_the_record(folder: str) -> None:
    saved(folder, (4, 1), (5, 1), (5, 2))
    assert epochs(folder, [(5, 2), (4, 1), (3, 1)]) == [5, 4]
    assert epochs(folder, [(4, 1)]) == [4]
    assert epochs(folder, [(6, 1), (4, 2)]) == []
    assert epochs(folder, []) == []
    assert epochs(inside(folder, "no such folder"), [(5, 1)]) == []


class TestPruning:
    def test_the_newest_two_are_kept(self, folder: str) -> None:
        saved(folder, *((epoch, 1) for epoch in range(1, 13)))
        assert names(folder) == ["000011-001.safetensors", "000012-001.safetensors"]

    def test_the_newest_two_are_kept_if_not_every_epoch_has_a_checkpoint(self, folder: str) -> None:
        saved(folder, (4, 1), (9, 1), (20, 1))
        # The report of the newest epoch may never have reached the driver.
        assert epochs(folder, [(epoch, 1) for epoch in range(19, 0, -1)]) == [9]

    def test_an_older_attempt_keeps_the_files_of_a_newer_one(self, folder: str) -> None:
        saved(folder, (3, 2), (4, 2), (8, 1), (9, 1), (10, 1))
        assert epochs(folder, [(4, 2), (3, 2)]) == [4, 3]

    def test_a_newer_attempt_deletes_the_files_of_older_ones(self, folder: str) -> None:
        saved(folder, (3, 1), (4, 1))
        put(folder, ".000003-001.safetensors.1", b"a write that was cut short")
        put(folder, ".000009-003.safetensors.3", b"a write under way")
        saved(folder, (5, 2), (6, 2))
        assert names(folder) == [
            ".000009-003.safetensors.3",
            "000005-002.safetensors",
            "000006-002.safetensors",
        ]

    def test_checkpoints_on_record_outlive_an_epoch_whose_report_was_lost(self, folder: str) -> None:
        saved(folder, (4, 1), (5, 1))  # the driver has the report of epoch 5 and then loses the worker,
        saved(folder, (6, 1))  # which still writes epoch 6
        saved(folder, (6, 2))  # the driver loses the next attempt before its report
        assert epochs(folder, [(5, 1), (4, 1)]) == [5]

    def test_other_files_in_the_folder_are_kept(self, folder: str) -> None:
        put(folder, "notes.txt")
        put(folder, "weights.safetensors")
        saved(folder, (1, 1), (5, 1), (9, 1))
        assert names(folder) == ["000005-001.safetensors", "000009-001.safetensors", "notes.txt", "weights.safetensors"]


class TestDamage:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """The newest of two checkpoints."""
        saved(tmp_path, (1, 1), (2, 1))
        return tmp_path / "000002-001.safetensors"

    def survivors(self, file: Path, content: bytes) -> list[int]:
        file.write_bytes(content)
        return epochs(file.parent, [(2, 1), (1, 1)])

    def test_a_file_cut_at_any_length_is_refused(self, file: Path) -> None:
        content = file.read_bytes()
        assert all(self.survivors(file, content[:length]) == [1] for length in range(len(content)))

    def test_a_file_with_extra_bytes_is_refused(self, file: Path) -> None:
        content = file.read_bytes()
        assert self.survivors(file, content + b"\0") == self.survivors(file, content * 2) == [1]

    def test_a_flipped_bit_anywhere_is_refused(self, file: Path) -> None:
        content = file.read_bytes()
        assert self.survivors(file, content) == [2, 1]
        assert {at for at, damaged in flips(content) if self.survivors(file, damaged) != [1]} == set()

    @pytest.mark.parametrize("length", [0, 8, 100, 4096, 100_000])
    def test_noise_is_refused(self, file: Path, length: int) -> None:
        noise = torch.randint(256, (length,), dtype=torch.uint8, generator=torch.Generator().manual_seed(length))
        assert self.survivors(file, noise.numpy().tobytes()) == [1]

    @pytest.mark.parametrize(
        "header",
        [b"", b"{}", b"[]", b"null", b'{"__metadata__": null}', b'{"__metadata__": {}}', b"[" * 50_000, b'{"a": 1}'],
    )
    def test_a_header_of_another_form_is_refused(self, file: Path, header: bytes) -> None:
        assert self.survivors(file, len(header).to_bytes(8, "little") + header) == [1]

    def test_a_safetensors_file_without_our_header_is_refused(self, file: Path) -> None:
        save_file(state_at(2), file)
        assert epochs(file.parent, [(2, 1), (1, 1)]) == [1]

    @pytest.mark.parametrize("name", ["000003-001", "000002-002"])
    def test_a_file_with_another_checkpoints_name_is_refused(self, file: Path, name: str) -> None:
        file.rename(file.with_name(f"{name}.safetensors"))
        assert epochs(file.parent, [(3, 1), (2, 2), (2, 1), (1, 1)]) == [1]

    def test_a_folder_with_a_checkpoints_name_is_refused(self, file: Path) -> None:
        file.unlink()
        file.mkdir()
        assert epochs(file.parent, [(2, 1), (1, 1)]) == [1]

    def test_a_refused_file_is_logged_with_its_path_and_a_missing_file_is_not(
        self, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.survivors(file, file.read_bytes()[:-1])
        assert epochs(file.parent, [(9, 1)]) == []
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{file}: refused")


class TestDamageInABucket:
    def test_an_object_that_is_cut_flipped_or_too_long_is_refused(self, bucket: str, tmp_path: Path) -> None:
        folder, name = inside(bucket, tmp_path.name), "000002-001.safetensors"
        saved(folder, (1, 1), (2, 1))
        content = files_at(folder).read(name)
        # The tests above damage every byte of a file on disk; in a bucket only the way to the bytes is different.
        damaged = [changed for _, changed in flips(content)[::401]]
        for changed in [b"", content[:-1], content[: len(content) // 2], content + b"\0", *damaged]:
            put(folder, name, changed)
            assert epochs(folder, [(2, 1), (1, 1)]) == [1]
        put(folder, name, content)
        assert epochs(folder, [(2, 1), (1, 1)]) == [2, 1]

    def test_a_refused_object_is_logged_with_its_url(
        self, bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = inside(bucket, tmp_path.name)
        put(folder, "000001-001.safetensors", b"damaged")
        assert epochs(folder, [(1, 1)]) == []
        assert [record.getMessage().partition(": refused")[0] for record in caplog.records] == [
            f"{folder}/000001-001.safetensors"
        ]


class TestWriting:
    def test_the_file_is_synced_before_its_rename_and_the_folder_after_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, seen, fsync = tmp_path / "000001-001.safetensors", [], os.fsync

        def fsync_and_tell(descriptor: int) -> None:
            seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size, file.exists()))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync_and_tell)
        saved(tmp_path, (1, 1))
        (partial, size, named), (folder, _, named_then) = seen
        assert Path(partial).name.startswith(f".{file.name}")
        assert size == file.stat().st_size
        assert not named
        assert (folder, named_then) == (str(tmp_path), True)

    def test_the_error_of_a_full_disk_names_path_and_bytes_and_no_file_is_left(self, tmp_path: Path) -> None:
        saved(tmp_path, (1, 1), (2, 1))
        fill(tmp_path / ".000003-001.safetensors.1")
        with pytest.raises(DiskFull) as caught:
            saved(tmp_path, (3, 1))
        assert names(tmp_path) == ["000001-001.safetensors", "000002-001.safetensors"]
        assert epochs(tmp_path, [(3, 1), (2, 1), (1, 1)]) == [2, 1]
        saved(tmp_path, (3, 1))  # the disk has space again
        needed = (tmp_path / "000003-001.safetensors").stat().st_size
        path = tmp_path / "000003-001.safetensors"
        assert str(caught.value) == f"{path}: no space left on the disk; {needed:,} bytes are needed"

    def test_the_error_of_a_full_disk_survives_pickling(self, tmp_path: Path) -> None:
        fill(tmp_path / ".large.1")
        with pytest.raises(DiskFull) as caught:
            write(tmp_path / "large", {"x": torch.zeros(2**20)}, attempt=1)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (DiskFull, str(caught.value))
        assert "4,194,3" in str(again)

    @pytest.mark.parametrize(
        ("number", "raised"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, OSError)]
    )
    def test_a_disk_that_is_full_only_at_fsync_is_an_error_and_leaves_no_file(
        self, number: int, raised: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(raised):
            saved(tmp_path, (1, 1))
        assert names(tmp_path) == []

    def test_two_attempts_do_not_write_the_same_partial_file(self, tmp_path: Path) -> None:
        fill(tmp_path / ".weights.1")
        write(tmp_path / "weights", {"x": torch.ones(2)}, attempt=2)
        assert load_file(tmp_path / "weights")["x"].tolist() == [1, 1]

    def test_a_process_killed_while_it_writes_leaves_only_whole_checkpoints(self, tmp_path: Path) -> None:
        code = (
            "import itertools, pathlib, sys, torch; from trainables.training.checkpoints import save\n"
            "state, folder = {'x': torch.rand(500_000)}, pathlib.Path(sys.argv[1])\n"
            "for epoch in itertools.count(1): save(folder, state, epoch, 1)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) as process:
            while not list(tmp_path.glob("000005-*")):
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        files = sorted(tmp_path.glob("0*"), reverse=True)
        assert len(files) >= checkpoints.KEEP
        assert len(list(newest(tmp_path, [(int(file.name[:6]), 1) for file in files]))) == len(files)


def fill(partial: Path) -> None:
    """Let every write to ``partial`` fail as on a full disk: the kernel provides ``/dev/full`` for this."""
    partial.symlink_to("/dev/full")
