"""Complete jobs with checkpoints and weights in a shared folder or a bucket. The tests kill and resume them."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.faults.checker import check_end_state
from tests.faults.test_faults import check_trained_again, epochs, kill_all
from tests.s3 import BUCKET, S3Server, s3_server
from tests.tuner.whole_jobs import Ended, Place, place, wait_for
from trainables.file_store import files_at, inside
from trainables.report import ConfirmResult
from trainables.training.trainer import digest

pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS = 8
SPEC = f"""\
name: tiny
data: {{name: digits, train_images: 200, val_images: 100, test_images: 100}}
model: {{name: elu_net, width: 0.03}}
baseline: adam_l2
arms: [adam_l2, noam]
budget: {{trials: 1, epochs: {EPOCHS}, batch_size: 20}}
sampler: random
scheduler: none
confirm: {{seeds: 3}}
resources: {{concurrent: 2}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@dataclass(frozen=True)
class Shared:
    """A place whose jobs store the files that other nodes need below ``root``."""

    where: Place
    root: str
    env: dict[str, str]

    def tuner(self, *args: str) -> Ended:
        return self.where.ended(self.where.start(*args, env=self.env))

    def begin(self, count: int = 6) -> "subprocess.Popen[str]":
        """Start a job, and wait until it has trained ``count`` epochs in total."""
        process = self.where.start("run", "spec.yaml", "-q", env=self.env)
        wait_for(lambda: epochs(self.where) >= count, process)
        return process

    def names(self, *folders: str) -> list[str]:
        return sorted(files_at(inside(self.root, "jobs", self.where.job.id, *folders)).names())


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, SPEC) as made:
        yield made


@pytest.fixture
def folder(where: Place) -> Shared:
    """A place whose root is a second folder."""
    root = where.root / "shared"
    root.mkdir()
    return Shared(where, str(root), {"TUNER_SHARED": str(root)})


@pytest.fixture
def bucket(where: Place, server: S3Server, tmp_path: Path) -> Shared:
    """A place whose root is in a bucket."""
    root = f"s3://{BUCKET}/{tmp_path.name}"
    return Shared(where, root, {"TUNER_SHARED": root, **server.env})


@pytest.fixture(params=["folder", "bucket"])
def shared(request: pytest.FixtureRequest) -> Shared:
    """A place with either kind of root."""
    found: Shared = request.getfixturevalue(request.param)
    return found


@pytest.mark.faults
def test_a_killed_job_continues_from_the_files_in_the_shared_place(shared: Shared) -> None:
    where = shared.where
    process = shared.begin()
    trials = [("checkpoints", "search", arm, "0") for arm in ("adam_l2", "noam")]
    wait_for(lambda: any(shared.names(*trial) for trial in trials), process)
    kill_all(where, process)
    assert any(shared.names(*trial) for trial in trials)
    assert not (where.job.path / "checkpoints").exists()
    ended = shared.tuner("resume", "-q")
    assert ended.code == 0, ended.err
    record = check_end_state(where)
    check_trained_again(where, record)
    assert shared.names("checkpoints") == []
    assert shared.names("weights") == ["adam_l2-round1.safetensors", "noam-round1.safetensors"]
    assert shared.names("exports") == ["adam_l2.yaml", "noam.yaml"]
    assert not (where.job.path / "weights").exists()
    # The job has stored where the files are. The environment only has to give the credentials.
    env = {name: value for name, value in shared.env.items() if name != "TUNER_SHARED"}
    exported = where.ended(where.start("export", "--arm", "noam", "-o", "w.safetensors", env=env))
    assert exported.code == 0, exported.err
    first = min(
        (trial for trial in record.trials.values() if trial.round and trial.arm == "noam"), key=lambda t: t.seed
    )
    assert isinstance(first.result, ConfirmResult)
    assert digest(load_file(where.cwd / "w.safetensors")) == first.result.weights_sha256


@pytest.mark.faults
@pytest.mark.timeout(600)  # the job waits 45 s for the bucket
def test_a_bucket_that_stays_down_ends_the_job_with_one_line_and_resume_works_once_it_is_back(
    bucket: Shared, server: S3Server
) -> None:
    process = bucket.begin()
    server.stop()
    try:
        ended = bucket.where.ended(process)
    finally:
        server.start()
    assert ended.code == 3, ended.err
    assert "Traceback" not in ended.err
    assert f"error: {bucket.root}/jobs/" in ended.err
    assert "AWS Error NETWORK_CONNECTION" in ended.err
    assert bucket.where.processes_left() == []
    assert bucket.tuner("resume", "-q").code == 0
    check_end_state(bucket.where)


@pytest.mark.parametrize(
    ("root", "code", "says"),
    [
        ("shared", 2, "error: TUNER_SHARED: 'shared' is not an absolute path"),
        ("s3://key:s3cret@bucket/x", 2, "error: TUNER_SHARED: an S3 URL must not contain credentials"),
        ("/no/such/mount", 3, "error: TUNER_SHARED: /no/such/mount is no folder here"),
        ("s3://no-such-bucket/x", 3, "error: TUNER_SHARED: s3://no-such-bucket/x/.tuner-"),
    ],
)
def test_an_unusable_shared_place_is_refused_in_one_line_before_anything_is_written(
    where: Place, server: S3Server, root: str, code: int, says: str
) -> None:
    ended = where.ended(where.start("run", "spec.yaml", "-q", env={**server.env, "TUNER_SHARED": root}))
    assert ended.code == code, ended.err
    assert ended.err.splitlines()[-1].startswith(says)
    assert "s3cret" not in ended.err
    assert not where.home.path.exists()
