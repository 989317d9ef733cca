"""A user's own model and reader through the command line: refused in one line, or trained, resumed and reproduced."""

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.faults.command_line import Answer, call
from tests.faults.test_security import export_of
from tests.tuner.whole_jobs import SPEC, place
from trainables.foreign_text import LONGEST, printable, raised
from tuner.export.export_file import job_of, read_export
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.storage.events import JobStateChanged, State, TrialEnded

MODEL = """\
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.pool = nn.MaxPool2d(3)
        self.out = nn.Linear(4 * 4, classes)
        with torch.no_grad():
            self.out.weight.copy_(torch.from_numpy(np.random.normal(0, 0.1, self.out.weight.shape)))

    def forward(self, x):
        x = self.pool(F.relu(self.conv(x)))
        x = x.view(-1, 4 * 4)
        if self.training:
            x = x + 0.01 * random.gauss(0, 1)
        return self.out(x)


def build(classes, shape):
    return Net(shape[0], classes)
"""
READER = """\
import numpy as np

from trainables.data.splits import Arrays, Raw


def read(path):
    draws = np.random.default_rng(int((path / "seed.txt").read_text()))
    labels = draws.integers(0, 2, 300)
    images = draws.integers(0, 100, (300, 8, 8, 3), dtype=np.uint8) + 60 * labels[:, None, None, None].astype(np.uint8)
    parts = [Arrays(images[part::3], labels[part::3]) for part in range(3)]
    return Raw(parts[0], parts[1], ("dark", "light"), flips=True, val=parts[2])
"""
OWN_MODEL = SPEC.replace("{name: elu_net, width: 0.03}", "{name: 'MODULE:build'}")
OWN_BOTH = """\
name: own
data: {name: "reader:read", path: pictures}
model: {name: "model:build"}
baseline: adam_l2
arms: [adam_l2, adamw]
budget: {trials: 1, epochs: 2, batch_size: 25}
scheduler: none
claim: setting
confirm: {seeds: 3, top_k: 1, selection_seeds: 1}
"""

DIGITS = "{name: digits, train_images: 200, val_images: 100, test_images: 100}"

Plan = Callable[..., tuple[str, Answer]]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Plans a spec with an own model; returns the module's file too. Every text has its own module name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def planned(text: str, *edits: tuple[str, str]) -> tuple[str, Answer]:
        name = f"planned_{abs(hash((str(tmp_path), text)))}"
        (tmp_path / f"{name}.py").write_text(text)
        spec = OWN_MODEL
        for old, new in (("MODULE", name), ("size: 20", "size: 4"), *edits):
            assert old in spec
            spec = spec.replace(old, new)
        (tmp_path / "spec.yaml").write_text(spec)
        return str(tmp_path / f"{name}.py"), call("plan", "spec.yaml")

    return planned


FITTING = MODEL.replace("4 * 4", "4 * 100")


def test_a_tutorials_net_is_planned(plan: Plan) -> None:
    answer = plan(FITTING)[1]
    assert (answer.code, answer.crash) == (0, None), answer.err
    assert "timed:" in answer.out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("x.view(-1, 4 * 100)", "x.view(-1, 7)", "raised RuntimeError: .*FILE:20"),
        ("return Net(shape[0], classes)", "return 1 / 0", "raised ZeroDivisionError: division by zero (FILE:27)"),
        ("return self.out(x)", "return (self.out(x), x) if self.training else self.out(x)", "in training mode, logits"),
        ("import random", "import random\n1 / 0", "importing it raised ZeroDivisionError: division by zero (FILE:2)"),
        ("import random", "import random\ndef f(:", "importing it raised SyntaxError: invalid syntax"),
        ("import random", "import randomm", "there is no module 'randomm' to import (FILE:1)"),
        (
            "        return self.out(x)",
            "        raise OSError('\\x1b]0;title\\x07bell\\x07 \\x9b31mred\\x1b[0m\\nmore')",
            "raised OSError: bell red more (FILE:23)",
        ),
    ],
)
def test_an_error_in_an_own_model_is_one_line_with_the_users_file(plan: Plan, old: str, new: str, message: str) -> None:
    assert old in FITTING
    file, answer = plan(FITTING.replace(old, new))
    assert (answer.code, answer.crash, answer.out) == (2, None, "")
    *_, line = answer.err.splitlines()
    assert line.startswith("error: ")
    assert all(other.startswith("checking the model: ") for other in answer.err.splitlines()[:-1])
    for part in message.replace("FILE", file).split(".*"):
        assert part in line


def grey_pngs(side: int, count: int) -> Iterator[bytes]:
    for value in range(count):
        data = BytesIO()
        Image.new("L", (side, side), value * 10).save(data, "PNG")
        yield data.getvalue()


@pytest.mark.parametrize("named", [None, ["a", "b", "c", "d"]], ids=["labels", "names"])
def test_a_plan_checks_an_own_model_on_images_and_classes_as_the_data_has_them(
    plan: Plan, tmp_path: Path, named: list[str] | None
) -> None:
    for split in ("train", "test"):
        table = pa.table({"image": list(grey_pngs(28, 12)), "label": [row % 3 for row in range(12)]})
        if named:
            table = table.replace_schema_metadata(
                {"huggingface": json.dumps({"info": {"features": {"label": {"names": named}}}})}
            )
        (tmp_path / "images").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "images" / f"{split}.parquet")
    net = "Net(shape[0], classes)"
    assert net in FITTING
    classes = len(named) if named else 3
    text = FITTING.replace("4 * 100", "4 * 64").replace(
        net, f"{net} if (classes, shape) == ({classes}, (3, 28, 28)) else 1 / 0"
    )
    answer = plan(text, (DIGITS, "{name: parquet, path: images}"), ("seeds: 3", "seeds: 3, margin: 0"))[1]
    assert (answer.code, answer.crash) == (0, None), answer.err
    assert "timed:" in answer.out


def test_a_plan_does_not_check_an_own_model_on_data_that_only_reading_knows(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "planned_reader.py").write_text("def read(path):\n    raise ValueError\n")
    data = "{name: 'planned_reader:read', train_images: 200}"
    answer = plan(
        FITTING.replace("return Net", "return 1 / 0 and Net"),
        (DIGITS, data),
    )[1]
    assert (answer.code, answer.crash) == (0, None), answer.err
    assert (
        "the model is not checked here, because only reading the data tells its images; a run checks it" in answer.err
    )


def test_own_code_trains_resumes_and_is_reproduced_from_any_folder(tmp_path: Path) -> None:
    modules = {"model.py": MODEL, "reader.py": READER}
    with place(tmp_path, modules={}) as where:
        project = tmp_path / "project"
        (project / "pictures").mkdir(parents=True)
        (project / "pictures" / "seed.txt").write_text("1")
        (project / "spec.yaml").write_text(OWN_BOTH)
        for name, text in modules.items():
            (project / name).write_text(text)

        ended = where.tuner("run", str(project / "spec.yaml"))
        assert ended.code == 0, ended.err
        assert "decoded 100 / 100 / 100" in ended.err
        assert not any(word in ended.err for word in ("differ", "not cached", "in the folder of this file"))
        assert where.job.started()["spec"]["data"]["path"] == str(project / "pictures")
        export = where.job.export("adamw")
        assert (where.job.record().contiguous, read_export(export).config.channels_last) == (True, False)
        again = where.tuner("reproduce", str(export), "--allow-code", "-o", "json")
        assert again.code == 0, again.err
        assert json.loads(again.out)["same_bits"] is True

        bad = READER.replace('("dark", "light")', 'np.array(["dark", "light"])')
        (project / "reader.py").write_text(bad)
        refused = where.tuner("run", str(project / "spec.yaml"), "-q")
        assert refused.code == 2
        assert refused.err == (
            "error: 'reader:read' returned a Raw that cannot be used: classes must be a tuple of names, one per class, "
            "not a numpy.ndarray\n"
        )
        assert [job.id for job in where.home.jobs()] == [where.job.id]


class TestForeignText:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain ± ü\n\tindented", "plain ± ü\n\tindented"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x9b31mred\x9b0m", "red"),
            ("\x1b]0;a title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link", "link"),
            ("\x9d0;a title\x9cafter", "after"),
            ("\x1bPq#0\x1b\\after", "after"),
            ("\x1b(0after\x1b7\x1bc", "after"),
            ("bell\a back\b null\0 return\r delete\x7f", "bell back null return delete"),
            ("cut off \x1b[", "cut off "),
            ("cut off \x1b]0;title", "cut off 0;title"),
        ],
    )
    def test_control_codes_are_removed(self, text: str, shown: str) -> None:
        assert printable(text) == shown

    def test_an_error_without_a_text_and_one_that_cannot_be_shown(self) -> None:
        class Silent(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        assert raised("x:y", ValueError()) == "x:y raised ValueError"
        assert raised("x:y", Silent()) == "x:y raised Silent"
        assert len(raised("x:y", ValueError("a" * 10_000))) < LONGEST + 50

    def test_events_old_and_new_have_no_control_codes(self) -> None:
        assert TrialEnded("a/0", State.FAILED, "\x1b[31mmine\x07", None).reason == "mine"
        assert JobStateChanged("failed", "\x9b31mmine\nall").reason == "mine\nall"
        assert TrialEnded("a/0", State.COMPLETE, None, None).reason is None


def test_a_job_folder_is_found_around_an_export(tmp_path: Path) -> None:
    export = export_of("mine:net", "mine:read").model_copy(update={"job": "job-1"})
    home, elsewhere = Workspace(tmp_path / "home"), Workspace(tmp_path / "other")
    folder = home.put_job(export.job, "", {"ms": 1, "spec": {}, "folder": "/x", "simulate": False})
    assert folder is not None
    assert job_of(export, elsewhere) is None
    assert job_of(export, elsewhere, folder.export("adam_l2")) == folder
    assert job_of(export, home, tmp_path / "copy.yaml") == JobFolder(home.path / "jobs" / export.job)
    folder.start.write_text('{"ms": 1, ')
    assert job_of(export, home, folder.export("adam_l2")) is None
