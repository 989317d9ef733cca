"""The tracking server's user and password, and what is said where they cannot be had."""

from pathlib import Path

import pytest

from tests.tuner.spec_texts import spec_of
from tuner.driver.preflight import preflight
from tuner.errors import ServiceError
from tuner.jobs.workspace import Workspace
from tuner.tracking.credentials import FILE, password_is_in_a_file, tracking_credentials


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is named as the one with the password, for a user that is."""
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "someone")
    monkeypatch.setenv(FILE, str(tmp_path / "password"))
    return tmp_path / "password"


def test_what_surrounds_the_password_in_its_file_is_left_out(file: Path) -> None:
    file.write_text("  pass wörd \n\n")
    assert tracking_credentials() == ("someone", "pass wörd")
    assert password_is_in_a_file()


def test_the_password_in_the_environment_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")
    assert tracking_credentials() == ("someone", "another")
    assert not password_is_in_a_file()


def test_without_a_user_there_are_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", FILE):
        monkeypatch.delenv(name, raising=False)
    assert tracking_credentials() is None


def test_a_password_of_nobody_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("password")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    with pytest.raises(ServiceError, match="MLFLOW_TRACKING_USERNAME is not"):
        tracking_credentials()


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read: No such file"), (b"", "is empty"), (b"\xff", "holds no text")]
)
def test_a_file_without_a_password_is_named_before_the_job_starts(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=f"^{FILE}: {file} {says}") as caught:
        preflight(spec_of(), Workspace(tmp_path / "home"))
    assert caught.value.exit_code == 3
