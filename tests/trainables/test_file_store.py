"""A folder of files works the same on a disk and in a bucket; an unreachable bucket is waited for, then reported."""

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.s3 import BUCKET, S3Server, s3_server
from trainables.errors import StoreError
from trainables.file_store import Files, checked, files_at, inside, split


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.fixture(params=["on disk", "in a bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of each kind that does not exist yet."""
    if request.param == "on disk":
        return str(tmp_path / "folder")
    request.getfixturevalue("server")
    return f"s3://{BUCKET}/{tmp_path.name}/folder"


@pytest.fixture
def files(folder: str) -> Files:
    return files_at(folder)


def test_a_file_comes_back_whole(files: Files) -> None:
    # The last size is larger than one part of an S3 upload.
    for size in (0, 1, 12_000_000):
        content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        files.write("file", content, writer=1)
        assert files.read("file") == content
    assert files.names() == ["file"]


def test_a_missing_file_cannot_be_read_and_deleting_or_renaming_it_does_nothing(files: Files) -> None:
    for _ in range(2):
        assert files.names() == []
        with pytest.raises(FileNotFoundError):
            files.read("file")
        files.delete("file")
        files.rename("file", "other")
        files.clear()
        files.write("another", b"", writer=1)
        files.delete("another")


def test_renaming_a_file_twice_has_the_effect_of_once(files: Files) -> None:
    files.write("old", b"new content", writer=1)
    files.write("new", b"old content", writer=1)
    for _ in range(2):
        files.rename("old", "new")
        assert (files.names(), files.read("new")) == (["new"], b"new content")


def test_clearing_deletes_everything_below_and_nothing_beside(folder: str, files: Files) -> None:
    for place in (folder, inside(folder, "of", "a trial"), f"{folder}-2"):
        files_at(place).write("file", b"", writer=1)
    files.clear()
    assert files.names() == files_at(inside(folder, "of", "a trial")).names() == []
    assert files_at(f"{folder}-2").names() == ["file"]


def test_special_characters_in_names_reach_the_bucket_unchanged(server: S3Server, tmp_path: Path) -> None:
    files_at(f"s3://{BUCKET}/{tmp_path.name}/a b/ü#?").write("x%2f", b"", writer=1)
    assert server.objects(tmp_path.name) == [f"{tmp_path.name}/a b/ü#?/x%2f"]


def test_a_bucket_that_is_away_for_a_moment_is_waited_for(server: S3Server, tmp_path: Path) -> None:
    files = files_at(f"s3://{BUCKET}/{tmp_path.name}")
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()
    begun = time.monotonic()
    files.write("file", b"content", writer=1)
    assert time.monotonic() - begun > 0.9
    back.join()
    assert files.read("file") == b"content"


def test_a_bucket_that_stays_unreachable_is_an_error_of_one_line_after_the_patience(
    server: S3Server, tmp_path: Path
) -> None:
    url = f"s3://{BUCKET}/{tmp_path.name}"
    server.stop()
    try:
        for patience_s in (0.0, 1.0):
            begun = time.monotonic()
            with pytest.raises(StoreError) as caught:
                files_at(url, patience_s).write("file", b"content", writer=1)
            assert patience_s / 2 < time.monotonic() - begun + 0.01 < patience_s + 2
            # The driver receives this error from a worker in another process.
            told = str(pickle.loads(pickle.dumps(caught.value)))
            assert told.startswith(f"{url}/file: cannot be written: AWS Error NETWORK_CONNECTION")
            assert "\n" not in told
        uses: list[Callable[[Files], object]] = [lambda f: f.read("x"), lambda f: f.names(), lambda f: f.clear()]
        for use in uses:
            with pytest.raises(StoreError, match=f"^{url}.*: cannot be (read|listed|removed): AWS Error"):
                use(files_at(url, 0))
    finally:
        server.start()


def test_a_bucket_that_does_not_exist_is_an_error_at_once(server: S3Server) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreError, match=r"^s3://no-such-bucket/x/file: cannot be written: AWS Error NO_SUCH_BUCKET"):
        files_at("s3://no-such-bucket/x").write("file", b"", writer=1)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("/mnt/shared", "/mnt/shared"),
        ("/mnt/shared/", "/mnt/shared"),
        ("/", "/"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
    ],
)
def test_a_folder_that_is_valid_on_all_nodes_is_accepted(given: str, used: str) -> None:
    assert checked(given) == used


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("shared", "'shared' is not an absolute path"),
        ("./shared", "is not an absolute path"),
        ("gs://bucket", "gs:// is not supported"),
        ("file:///mnt", "file:// is not supported"),
        ("s3://", "'' is not a valid bucket name"),
        ("s3:///a", "'' is not a valid bucket name"),
        ("s3://Bucket/a", "'Bucket' is not a valid bucket name"),
        ("s3://bucket/a//b", "'a//b' is not a valid prefix"),
        ("s3://bucket/../b", "'../b' is not a valid prefix"),
        ("s3://bucket/a\nb", "is not a valid prefix"),
    ],
)
def test_any_other_folder_is_refused(given: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        checked(given)


@pytest.mark.parametrize(
    "given",
    [
        "s3://AKIA:s3cret@bucket/a",
        "s3://AKIA:s3/cret@bucket/a",
        "s3://bucket/a?secret_key=s3cret",
        "s3://AKIA:s3cret/a",
        "https://AKIA:s3cret@host/bucket",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(ValueError, match=r"must not contain credentials|is not supported") as caught:
        checked(given)
    assert "cret" not in str(caught.value)


def test_split_is_the_inverse_of_inside(tmp_path: Path) -> None:
    for folder in (str(tmp_path), "s3://bucket/a", "s3://bucket"):
        assert split(inside(folder, "name")) == (folder, "name")
    assert inside(tmp_path, "", "a") == f"{tmp_path}/a"
    assert split("name") == (".", "name")
    assert split("/name") == ("/", "name")
