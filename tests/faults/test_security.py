"""Security: no visible secrets, no names that lead to other folders, no files that run code, no ports open to all."""

import ast
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import click
import pytest

from tests.faults.command_line import call
from tests.tuner.spec_texts import SPEC, spec_of
from tests.tuner.whole_jobs import ROOT, Ended, Place, place
from trainables.space import Plan
from tuner.api import load_config
from tuner.cli import cli
from tuner.errors import IntegrityError, SpecError
from tuner.export.export_file import SCHEMA, Export, read_export, render
from tuner.jobs.workspace import Workspace
from tuner.monitor import local_server as server
from tuner.spec.arms import arms
from tuner.spec.search_spec import load
from tuner.spec.trial_config import trial_config

SECRETS: Mapping[str, str] = {
    "MLFLOW_TRACKING_PASSWORD": "s3cret-of-mlflow-41f0c7",
    "PGPASSWORD": "s3cret-of-postgres-9be2d1",
    "RAY_AUTH_TOKEN": "5ec4e70f4a95ec4e70f4a95ec4e70f4a95ec4e70f4a9",
}
CLOUD_SECRETS: Mapping[str, str] = {
    "AWS_SECRET_ACCESS_KEY": "s3cret-of-aws-7d60a8",
    "AWS_SESSION_TOKEN": "s3cret-of-a-session-2c9b",
}
OTHERS = {"MLFLOW_TRACKING_USERNAME": "someone", "AWS_ACCESS_KEY_ID": "AKIAMADEUP"}
TINY = """\
name: tiny
data: {name: digits, train_images: 100, val_images: 50, test_images: 50}
model: {name: elu_net, width: 0.03}
baseline: adam_l2
arms: [adam_l2, noam]
budget: {trials: 1, epochs: 3, batch_size: 20}
scheduler: none
confirm: {seeds: 3}
resources: {concurrent: 2}
"""


class Guarded(Place):
    """A place whose processes have secrets in their environment."""

    def env(self) -> dict[str, str]:
        return {**super().env(), **SECRETS, **CLOUD_SECRETS, **OTHERS}


@dataclass
class Seen:
    """The visible traces of a job: what other users of the machine can see while it runs, and its files afterwards."""

    argv: set[str] = field(default_factory=set)
    listening: set[tuple[str, str]] = field(default_factory=set)
    logs: dict[Path, bytes] = field(default_factory=dict)
    files: dict[Path, bytes] = field(default_factory=dict)
    ended: Ended = field(default_factory=lambda: Ended(1, "", ""))

    def look(self, where: Place) -> None:
        for pid in tree_of(where.processes()):
            try:
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                self.argv.add(argv)
                self.listening |= {(address, argv[:100]) for address in listening(pid)}
            except OSError:
                continue
        # ``rglob`` would stop at a folder that is removed at the same time.
        for folder, _, names in os.walk(where.scratch):
            for file in (Path(folder, name) for name in names if "logs" in Path(folder).parts):
                with suppress(OSError):
                    if file.is_file():
                        self.logs[file] = file.read_bytes()


def tree_of(roots: list[int]) -> set[int]:
    """The processes and all their descendants.

    Descendants need not have the mark: Ray's agents write their process titles over their environment.
    """
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pid: int) -> Iterator[str]:
    """The addresses on which the sockets of a process listen."""
    inodes = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                yield str(address_of(columns[1].partition(":")[0]))


def address_of(text: str) -> IPv4Address | IPv6Address:
    """Parse an address in the kernel's format: words of four bytes, each in reverse order."""
    raw = bytes.fromhex(text)
    packed = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ip_address(packed)
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """The traces of a complete tiny job, collected while it ran and afterwards."""
    found = Seen()
    with place(tmp_path_factory.mktemp("guarded"), TINY) as made:
        where = Guarded(made.root, made.scratch, made.mark)
        process = where.start("run", "spec.yaml")
        while process.poll() is None:
            found.look(where)
            time.sleep(0.1)
        found.ended = where.ended(process)
        exported = where.tuner("export", "latest", "--all", "-o", "exports")
        assert exported.code == 0, exported.err
        for part in ("leaderboard", "report", "list"):
            (where.root / part).write_text(where.tuner(part).out)
        found.files = {file: file.read_bytes() for file in where.root.rglob("*") if file.is_file()}
        yield found


def places_of(secrets: Mapping[str, str], texts: Mapping[Any, bytes]) -> list[tuple[str, str]]:
    return [(name, str(where)) for name, secret in secrets.items() for where, text in texts.items()
            if secret.encode() in text]  # fmt: skip


def test_the_job_ran_and_was_watched(seen: Seen) -> None:
    assert seen.ended.code == 0, seen.ended.err
    assert len(seen.argv) > 5
    assert any("raylet" in argv for argv in seen.argv)
    assert any(file.name == "raylet.out" for file in seen.logs)
    names = {file.name for file in seen.files}
    assert {
        "journal.jsonl",
        "report.md",
        "report.html",
        "mlflow.db",
        "studies.db",
        "noam.yaml",
        "leaderboard.json",
    } <= names


def test_no_secret_is_in_any_file_of_a_finished_job(seen: Seen) -> None:
    assert places_of({**SECRETS, **CLOUD_SECRETS}, seen.files) == []


def test_no_secret_is_printed(seen: Seen) -> None:
    texts = {"stdout": seen.ended.out.encode(), "stderr": seen.ended.err.encode()}
    assert places_of({**SECRETS, **CLOUD_SECRETS}, texts) == []


def test_no_secret_is_on_a_command_line_or_in_a_log(seen: Seen) -> None:
    assert places_of(SECRETS, {argv: argv.encode() for argv in seen.argv}) == []
    assert places_of(SECRETS, seen.logs) == []


def test_no_cloud_secret_is_on_a_command_line_or_in_a_log(seen: Seen) -> None:
    assert places_of(CLOUD_SECRETS, {argv: argv.encode() for argv in seen.argv}) == []
    assert places_of(CLOUD_SECRETS, seen.logs) == []


def test_a_running_job_listens_only_on_loopback(seen: Seen) -> None:
    assert {found for found in seen.listening if not ip_address(found[0]).is_loopback} == set()


def test_mlflow_listens_only_on_loopback(seen: Seen) -> None:
    """This test ignores the ports of Ray, which the test above checks."""
    assert seen.listening, "Ray must listen on some port"
    assert not [found for found in seen.listening if "mlflow" in found[1] and not ip_address(found[0]).is_loopback]


def test_the_ui_is_served_on_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = command_of_ui("sqlite:///x.db", monkeypatch, tmp_path)
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_the_ui_has_no_password_on_its_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = command_of_ui("postgresql://user:s3cret@h/db", monkeypatch, tmp_path)
    assert not [word for word in command if "s3cret" in word]


def command_of_ui(uri: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """The command that ``tuner ui`` runs."""
    ran: list[str] = []
    monkeypatch.setattr(server, "serve", lambda command, *args: ran.extend(command))
    server.serve_mlflow(uri, folder, 5000, server.Links(("",), browse=False))
    return ran


NAMES = ("../x", "..", ".", "a/b", "/etc", "a/../../b", "a\\..\\b", "-rf", "~", "$HOME", "a b", "a\u2044b", "x" * 300,
         "a..b", ".hidden", "a\x00b", "%2e%2e%2f", "\u202ea")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("old", ["name: job", "variant: noam"])
def test_a_name_that_could_lead_to_another_folder_is_refused(tmp_path: Path, old: str, name: str) -> None:
    new = f"name: {json.dumps(name)}" if old == "name: job" else f"variant: noam\n    name: {json.dumps(name)}"
    (tmp_path / "job.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(SpecError):
        load(tmp_path / "job.yaml")


JOB_COMMANDS = sorted(
    name
    for name, command in cli.commands.items()
    if any(isinstance(p, click.Argument) and p.name == "job" for p in command.params)
)


@pytest.mark.parametrize("job", ["../decoy-1", "/decoy-1", "jobs/../decoy-1", "..", ".", "real-1/../../decoy-1", "*"])
@pytest.mark.parametrize("command", JOB_COMMANDS)
def test_a_job_id_cannot_lead_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, job: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_HOME", str(tmp_path))
    for folder in (tmp_path / "jobs" / "real-1", tmp_path / "decoy-1"):
        folder.mkdir(parents=True)
        (folder / "start.json").write_text(json.dumps({"ms": 1, "spec": {}, "folder": ".", "simulate": False}))
        (folder / "journal.jsonl").write_text("")
    more = {"export": ("--best", "-o", "out.yaml"), "confirm": ("--seeds", 3), "rows": ("-o", "out.yaml")}.get(
        command, ()
    )
    answer = call(command, job, *more)
    assert answer.crash is None
    assert (answer.code, answer.out) == (4, "")
    assert f"no job {job!r} in " in answer.err
    assert not (tmp_path / "out.yaml").exists()


def test_the_commands_that_take_a_job_are_found() -> None:
    assert {"leaderboard", "report", "sync", "ui", "confirm", "export"} <= set(JOB_COMMANDS)


RAN = "it-ran"
TAGS = (
    "!!python/object/apply:os.system ['touch it-ran']",
    "!!python/object/new:os.system ['touch it-ran']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:tuner.jobs.workspace.Workspace {path: x}",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch it-ran']",
    "!!map {a: 1}",
    "!x 1",
)


@pytest.mark.parametrize("where", ["name: {}\n", "a: {}\n", "[{}]\n", "{}\n", "? {}\n: 1\n", "a: [{{b: {}}}]\n"])
@pytest.mark.parametrize("tag", TAGS)
def test_a_yaml_tag_is_refused_and_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(where.format(tag))
    with pytest.raises(SpecError, match=r"tags? .* not allowed|not YAML|at the top"):
        load(tmp_path / "bad.yaml")
    with pytest.raises(IntegrityError):
        read_export(tmp_path / "bad.yaml")
    assert not (tmp_path / RAN).exists()


def export_of(model: str, data: str = "digits", option: str = "x") -> Export:
    """A made-up export with this model and this data set."""
    spec = spec_of(("elu_net", f"{model}\n  options: {{text: {json.dumps(option)}}}"), ("digits", data))
    arm = arms(spec, Plan(8, 10))[1]
    run = {"val_acc": 0.5, "test_acc": 0.5, "test_loss": 1.0, "weights_sha256": "", "device": "", "mlflow_run": None}
    return Export.sealed(
        {name: "" for name, about in Export.model_fields.items() if about.annotation is str and name != "sha256"}
        | {
            "schema_version": SCHEMA,
            "search_value": 0.5,
            "trial": trial_config(spec, arm.name, arm.setting(arm.default), 1).to_dict(),
            "confirm_round": 1,
            "confirm_runs": [run | {"seed": 1}],
            "test_mean_points": 50.0,
            "test_sd_points": None,
            "comparison": None,
            "versions": {},
            "mlflow_parent_run": None,
            "mlflow_search_run": None,
        }
    )


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that writes a file when it is imported, and an export that names it as its data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    monkeypatch.delitem(sys.modules, "leaves_a_mark", raising=False)
    (tmp_path / "leaves_a_mark.py").write_text(f"open({RAN!r}, 'w').close()\ndef read(path):\n    return None\n")
    (tmp_path / "armed.yaml").write_text(render(export_of("leaves_a_mark:net", "leaves_a_mark:read"), ".yaml"))
    return tmp_path


def test_reproduce_imports_the_code_of_an_export_only_with_allow_code(armed: Path) -> None:
    answer = call("reproduce", "armed.yaml")
    assert (answer.code, answer.crash) == (2, None)
    assert "give --allow-code if you trust it" in answer.err
    assert not (armed / RAN).exists()
    assert call("reproduce", "armed.yaml", "--allow-code").code == 2  # the module returns no data
    assert (armed / RAN).exists()


def test_load_config_imports_the_code_of_an_export_only_with_allow_code(armed: Path) -> None:
    with pytest.raises(SpecError, match="give --allow-code"):
        load_config("armed.yaml")
    assert not (armed / RAN).exists()
    with pytest.raises(Exception, match="must return"):
        load_config("armed.yaml", allow_code=True)
    assert (armed / RAN).exists()


@pytest.mark.parametrize(
    "text",
    ['"""\nopen("it-ran", "w")\n"""', "'); open('it-ran', 'w'); ('", "{__import__('os').system('touch it-ran')}", "\\",
     "\\N{BELL}", "'''", '"""'],
)  # fmt: skip
def test_a_text_in_an_exported_python_file_is_not_run_as_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = " ".join(text.splitlines())
    export = export_of("mine:net", option=text)
    module: dict[str, Any] = {}
    exec(render(export, ".py"), module)
    assert module["EXPORT"]["trial"]["model"]["options"] == {"text": text}
    assert Export(**module["EXPORT"]) == export
    assert not (tmp_path / RAN).exists()


# Modules and functions that read code or objects from data, or that pass text to a shell.
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "skops", "yaml"}
UNSAFE_CALLS = {"__import__", "compile", "eval", "exec", "os.popen", "os.system", "torch.jit.load",
                "pd.read_pickle", "pandas.read_pickle", "tarfile.open", "zipfile.ZipFile"}  # fmt: skip
ERRORS_ONLY = {("trainables/data/cifar10.py", "pickle"): {"PickleError"}}
"""torchvision reads the pickles of CIFAR-10 after their checksums were compared. We only name the error of pickle."""

HARMLESS = {("tuner/jobs/code_archive.py", "zipfile.ZipFile")}
"""Nothing that is unpacked leaves its folder (``test_code_archive.py``)."""

SOURCES = [file for package in ("tuner", "trainables", "cluster") for file in sorted((ROOT / package).rglob("*.py"))]


def unsafe(source: str, file: str = "") -> Iterator[str]:
    """The places in Python source that could run code from data or through a shell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            for module in {name.partition(".")[0] for name in modules} & UNSAFE_MODULES:
                if (file, module) not in {*ERRORS_ONLY, *HARMLESS}:
                    yield f"{file}:{node.lineno}: imports {module}"
        elif isinstance(node, ast.Attribute):
            allowed = ERRORS_ONLY.get((file, ast.unparse(node.value)))
            if allowed is not None and node.attr not in allowed:
                yield f"{file}:{node.lineno}: uses {ast.unparse(node)}"
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in UNSAFE_CALLS and (file, called) not in HARMLESS:
                yield f"{file}:{node.lineno}: calls {called}"
            if called == "torch.load" and given.get("weights_only") != "True":
                yield f"{file}:{node.lineno}: torch.load without weights_only=True"
            if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                yield f"{file}:{node.lineno}: {called} without allow_pickle=False"
            if called.startswith("subprocess.") and given.get("shell", "False") != "False":
                yield f"{file}:{node.lineno}: {called} through a shell"
            if called == "YAML" and given.get("typ") not in ("'safe'", '"safe"'):
                yield f"{file}:{node.lineno}: YAML without typ='safe'"


def test_our_code_reads_no_pickles_and_runs_no_text_as_code() -> None:
    assert len(SOURCES) > 50
    found = [line for file in SOURCES for line in unsafe(file.read_text(), str(file.relative_to(ROOT)))]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import loads", "import yaml", "eval('1')", "exec('1')", "torch.load(f)",
     "torch.load(f, weights_only=False)", "np.load(f)", "np.load(f, allow_pickle=True)", "os.system('x')",
     "subprocess.run('x', shell=True)", "subprocess.Popen(x, shell=flag)", "YAML()", "YAML(typ='unsafe')",
     "import joblib.memory", "def f():\n    import marshal"],
)  # fmt: skip
def test_the_search_for_unsafe_code_finds_it(line: str) -> None:
    assert list(unsafe(line))


def test_an_exception_to_the_rules_allows_only_the_named_use() -> None:
    (file, module), (name, *_) = next(iter(ERRORS_ONLY.items()))[0], sorted(next(iter(ERRORS_ONLY.values())))
    assert not list(unsafe(f"import {module}\n{module}.{name}", file))
    assert list(unsafe(f"import {module}\n{module}.loads(b'')", file))


AUDIT = ROOT / ".ci" / "audit.py"


@pytest.fixture
def audit(tmp_path: Path) -> Any:
    """Runs the audit with a fake pip-audit instead of the real one."""

    def run(answer: object, ignored: str = "", code: int = 0, error: str = "") -> "subprocess.CompletedProcess[str]":
        package = tmp_path / "pip_audit"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        said = json.dumps({"dependencies": answer, "fixes": []}) if isinstance(answer, list) else answer
        program = f"import sys\nprint({said!r})\nprint({error!r}, file=sys.stderr)\nsys.exit({code})\n"
        (package / "__main__.py").write_text(textwrap.dedent(program))
        (tmp_path / "ignored").write_text(ignored)
        return subprocess.run(
            [sys.executable, str(AUDIT), "--ignored", str(tmp_path / "ignored")],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def package(name: str, *vulnerabilities: tuple[str, list[str]]) -> dict[str, Any]:
    found = [{"id": known, "fix_versions": fixes, "aliases": [], "description": ""} for known, fixes in vulnerabilities]
    return {"name": name, "version": "1.0", "vulns": found}


CANARY = package("django", ("CVE-0", ["9"]))


def test_an_audit_without_findings_passes(audit: Any) -> None:
    done = audit([CANARY, package("a"), package("b")])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 packages" in done.stdout


def test_a_vulnerability_with_a_fix_fails(audit: Any) -> None:
    done = audit([CANARY, package("a", ("CVE-1", ["1.1", "2.0"]))], code=1)
    assert done.returncode == 1
    assert "a 1.0: CVE-1, fixed in 1.1, 2.0" in done.stdout


def test_a_vulnerability_without_a_fix_is_reported_and_passes(audit: Any) -> None:
    done = audit([CANARY, package("a", ("CVE-1", []))], code=1)
    assert done.returncode == 0
    assert "a 1.0: CVE-1, not fixed yet" in done.stdout


def test_a_vulnerability_that_is_listed_with_a_reason_passes(audit: Any) -> None:
    done = audit([CANARY, package("a", ("CVE-1", ["2"]))], "# known\nCVE-1  we call none of it\nCVE-2  gone\n", code=1)
    assert done.returncode == 0
    assert "a 1.0: CVE-1, ignored: we call none of it" in done.stdout
    assert "CVE-2 is listed but was not found" in done.stdout


def test_a_listed_vulnerability_without_a_reason_is_refused(audit: Any) -> None:
    done = audit([CANARY], "CVE-1\n")
    assert done.returncode == 2
    assert "CVE-1 has no reason" in done.stderr


@pytest.mark.parametrize(
    ("answer", "code", "error"),
    [
        ("", 1, "requests.exceptions.ConnectionError: no route"),
        ([{"name": "django", "skip_reason": "not found"}, {"name": "a", "skip_reason": "not found"}], 0, ""),
        ([{"name": "django", "version": "1.8.0", "vulns": []}, {"name": "a", "version": "1", "vulns": []}], 0, ""),
    ],
    ids=["offline", "a mirror that knows no package", "a mirror that knows no vulnerability"],
)
def test_an_audit_without_vulnerability_data_prints_one_line_and_passes(
    audit: Any, answer: object, code: int, error: str
) -> None:
    done = audit(answer, code=code, error=error)
    assert done.returncode == 0
    assert done.stdout.startswith("audit: nothing was audited: ")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_an_audit_that_fails_for_another_reason_fails(audit: Any) -> None:
    done = audit("", code=1, error="No module named pip_audit")
    assert done.returncode == 1
    assert done.stderr == "audit: pip-audit failed: No module named pip_audit\n"


def test_no_part_of_the_audit_names_a_host() -> None:
    for file in (*AUDIT.parent.iterdir(), ROOT / "Makefile"):
        assert "://" not in file.read_text()


def test_the_workspace_is_the_folder_in_tuner_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    assert Workspace.find().path == tmp_path / "home"
