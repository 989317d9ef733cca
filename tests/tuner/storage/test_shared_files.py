"""Where a job keeps what other nodes must reach, and what is said before it starts if that cannot be."""

import os
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3 import BUCKET, S3Server, s3_server
from tests.tuner.spec_texts import more, spec_of
from trainables.errors import StoreError
from trainables.file_store import files_at, inside
from tuner.driver.preflight import bytes_needed, preflight
from tuner.errors import ServiceError, SpecError
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.storage import shared_files as shared_module
from tuner.storage.shared_files import VARIABLE, check_writable, store_errors

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def made(home: Workspace) -> JobFolder:
    return home.new_job("job", "", {"spec": {}, "folder": "/code", "simulate": False})


def test_without_a_shared_root_all_lies_in_the_jobs_own_folder(home: Workspace) -> None:
    folder = made(home)
    assert folder.checkpoints() == f"{folder.path}/checkpoints"
    assert folder.checkpoints("search/noam/0") == f"{folder.path}/checkpoints/search/noam/0"
    assert folder.weights("noam", 2) == f"{folder.path}/weights/noam-round2.safetensors"


@pytest.mark.parametrize("root", ["/mnt/shared", "s3://bucket/a"])
def test_a_job_knows_its_shared_root_and_the_environment_wins(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv(VARIABLE, f"{root}/")
    folder = made(home)
    for now in (f"{root}/", None):
        monkeypatch.delenv(VARIABLE) if now is None else monkeypatch.setenv(VARIABLE, now)
        assert folder.checkpoints("search/noam/0") == f"{root}/jobs/{folder.id}/checkpoints/search/noam/0"
        assert folder.weights("noam", 1) == f"{root}/jobs/{folder.id}/weights/noam-round1.safetensors"
    monkeypatch.setenv(VARIABLE, "/elsewhere")
    assert folder.shared == f"/elsewhere/jobs/{folder.id}"


@pytest.mark.parametrize("root", ["shared", "gs://bucket", "s3://key:s3cret@bucket"])
def test_a_root_that_is_none_is_refused_before_anything_is_written(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv(VARIABLE, root)
    for use in (lambda: made(home), lambda: preflight(spec_of(), home)):
        with pytest.raises(SpecError, match=f"^{VARIABLE}: ") as caught:
            use()
        assert "s3cret" not in str(caught.value)
    assert not home.path.exists()


def test_a_folder_is_tried_by_writing_to_it_and_nothing_is_left(tmp_path: Path) -> None:
    check_writable(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ServiceError, match=rf"^{VARIABLE}: {tmp_path}/none is no folder here"):
        check_writable(f"{tmp_path}/none")
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match="is no folder here"):
        check_writable(f"{tmp_path}/file")
    # Not even root may write here.
    with pytest.raises(ServiceError, match=rf"^{VARIABLE}: /proc/{os.getpid()} cannot be written: "):
        check_writable(f"/proc/{os.getpid()}")


def test_a_mount_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_module, "ANSWER_S", 0.1)
    monkeypatch.setattr(shared_module, "_write_and_remove", lambda root: time.sleep(1))
    with pytest.raises(ServiceError, match=rf"^{VARIABLE}: {tmp_path} does not answer within 0.1 s"):
        check_writable(str(tmp_path))


class TestBucket:
    def test_a_bucket_is_tried_by_writing_to_it_and_nothing_is_left(self, server: S3Server) -> None:
        before = server.objects()
        check_writable(f"s3://{BUCKET}/a")
        assert [key for key in server.objects() if key not in before and not key.endswith("/")] == []

    def test_one_that_is_away_is_told_within_five_seconds(self, server: S3Server) -> None:
        server.stop()
        begun = time.monotonic()
        try:
            with pytest.raises(ServiceError, match=rf"^{VARIABLE}: s3://{BUCKET}/a/.*: AWS Error NETWORK_CONNECTION"):
                check_writable(f"s3://{BUCKET}/a")
        finally:
            server.start()
        assert time.monotonic() - begun < 5

    def test_checkpoints_that_cannot_be_removed_now_stop_nothing(
        self, server: S3Server, home: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv(VARIABLE, f"s3://{BUCKET}/b")
        folder = made(home)
        files_at(folder.checkpoints("search/noam/0")).write("file", b"", writer=1)
        server.stop()
        begun = time.monotonic()
        try:
            folder.forget_checkpoints()
        finally:
            server.start()
        assert time.monotonic() - begun < 5
        assert folder.checkpoints() in caplog.text
        folder.forget_checkpoints()
        assert server.objects(f"b/jobs/{folder.id}/checkpoints") == []

    @pytest.fixture
    def server(self) -> Iterator[S3Server]:
        with s3_server() as made:
            yield made


def test_room_is_asked_for_where_the_checkpoints_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Workspace
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    spec = spec_of(more("resources: {concurrent: 1}\n"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**50, 0, 2**50 if path == shared else 0))
    monkeypatch.setenv(VARIABLE, str(shared))
    with pytest.raises(ServiceError, match=rf"^{home.path}: the job needs about") as caught:
        preflight(spec, home)
    only_journal = int(str(caught.value).split("about ")[1].split()[0].replace(",", ""))
    assert 0 < only_journal < bytes_needed(spec, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**50, 0, 0 if path == shared else 2**50))
    with pytest.raises(ServiceError, match=rf"^{shared}: the job needs about") as caught:
        preflight(spec, home)
    state = int(str(caught.value).split("about ")[1].split()[0].replace(",", ""))
    assert only_journal + state == bytes_needed(spec, 1)


def test_what_a_store_comes_to_is_a_service_error_and_a_missing_file_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="away"), store_errors():
        raise StoreError("away")
    with pytest.raises(ServiceError, match="Is a directory"), store_errors():
        files_at(tmp_path.parent).read(tmp_path.name)
    with pytest.raises(FileNotFoundError), store_errors():
        files_at(inside(tmp_path)).read("none")
