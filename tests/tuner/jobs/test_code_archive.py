"""The user's code travels whole, without what its ignore files name, as the same bytes for the same files."""

import os
import socket
import stat
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest

from tuner.errors import SpecError
from tuner.jobs import code_archive as bundle
from tuner.jobs.code_archive import code_files, pack, unpack


def folder_of(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def packed_of(folder: Path) -> bytes:
    return pack(code_files(folder))


def names(packed: bytes) -> set[str]:
    return set(zipfile.ZipFile(BytesIO(packed)).namelist())


def test_what_is_packed_comes_out_the_same(tmp_path: Path) -> None:
    files = {"net.py": "a", "parts/block.py": "b", "parts/notes.txt": "ä"}
    unpack(packed_of(folder_of(tmp_path / "here", files)), tmp_path / "there")
    assert {name: (tmp_path / "there" / name).read_text() for name in files} == files


def test_the_same_files_are_the_same_bytes_whenever_they_were_written(tmp_path: Path) -> None:
    files = {"b.py": "b", "a.py": "a"}
    one, other = folder_of(tmp_path / "1", files), folder_of(tmp_path / "2", dict(reversed(files.items())))
    os.utime(one / "a.py", (1e9, 1e9))
    assert packed_of(one) == packed_of(other)
    (other / "a.py").write_text("changed")
    assert packed_of(one) != packed_of(other)


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
    kept = {name for name in names(packed_of(folder)) if "ignore" not in name}
    assert kept == {"net.py", "keep.log", "sub/b.py", "sub/c.log", "other/big.bin"}


def test_what_is_too_large_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MOST_BYTES", 10)
    with pytest.raises(SpecError, match=r"code: .* holds 11 bytes .*at most 10 .*\.rayignore"):
        packed_of(folder_of(tmp_path, {"a": "12345678901"}))


def test_nothing_that_is_unpacked_leaves_the_folder(tmp_path: Path) -> None:
    evil = BytesIO()
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../outside", "x")
        archive.writestr("/absolute", "x")
    unpack(evil.getvalue(), tmp_path / "in" / "here")
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {"in/here/outside", "in/here/absolute"}


def linked(place: Path, target: object) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(str(target))


SECRET_NAMES = [
    *(".env", ".env.local", "prod.env", "server.pem", "tls.KEY", "id_rsa", "id_ed25519.pub", "credentials"),
    *(
        "credentials.json",
        "gcp-credentials-1.json",
        "my-service-account.json",
        ".netrc",
        ".aws/config",
        ".ssh/known_hosts",
    ),
    *(
        "deep/.kube/config",
        "kubeconfig.yaml",
        ".pgpass",
        "secrets.toml",
        "secrets/mlflow_password",
        "token",
        ".bash_history",
        ".secrets.toml",
        ".env-prod",
        ".env_local",
    ),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_what_looks_like_a_secret_stays_and_is_named(tmp_path: Path, name: str) -> None:
    code = code_files(folder_of(tmp_path, {name: "hunter2", "net.py": ""}))
    assert [*code.files] == ["net.py"]
    assert [place for place in code.left_out if name.startswith(place)]
    assert "hunter2" not in str(pack(code))


def test_a_module_about_secrets_is_no_secret_and_a_private_key_is_one_under_any_name(tmp_path: Path) -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMII\n"
    code = code_files(
        folder_of(tmp_path, {"credentials.py": "", "id_embedding.py": "", "tokens.txt": "", "notes": key})
    )
    assert [*code.files] == ["credentials.py", "id_embedding.py", "tokens.txt"]
    assert dict(code.left_out) == {"notes": "it holds a private key"}


def test_of_a_package_about_secrets_only_the_modules_travel(tmp_path: Path) -> None:
    names = ("secrets/__init__.py", "secrets/stub.pyi", "secrets/prod.yaml", "secrets/deep/a.py", "secrets/deep/key")
    folder = folder_of(tmp_path, {**dict.fromkeys(names, ""), "net.py": ""})
    linked(folder / "settings", "secrets")
    linked(folder / "more", "secrets/deep")
    linked(folder / "prod.yaml", "secrets/prod.yaml")
    code = code_files(folder)
    modules = ("__init__.py", "stub.pyi", "deep/a.py")
    assert {*code.files} == {
        *("net.py", "more/a.py"),
        *(f"{package}/{module}" for package in ("secrets", "settings") for module in modules),
    }
    assert dict(code.left_out) == {
        "prod.yaml": "a link to what looks like a secret",
        **dict.fromkeys(
            ("more/key", "secrets/prod.yaml", "secrets/deep/key", "settings/prod.yaml", "settings/deep/key"),
            "it looks like a secret",
        ),
    }


def test_a_link_to_what_an_ignore_file_names_stays(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {".gitignore": "ign/\n", "ign/notes.txt": "s", "net.py": ""})
    linked(folder / "link.txt", "ign/notes.txt")
    linked(folder / "linkdir", "ign")
    code = code_files(folder)
    assert {*code.files} == {".gitignore", "net.py"}
    assert dict(code.left_out) == dict.fromkeys(("link.txt", "linkdir"), "a link to what does not travel")


def test_nothing_from_outside_the_folder_travels(tmp_path: Path) -> None:
    outside = folder_of(tmp_path / "outside", {"shadow": "x", "package/__init__.py": "x"})
    folder = folder_of(tmp_path / "code", {"net.py": ""})
    linked(folder / "file", outside / "shadow")
    linked(folder / "package", outside / "package")
    linked(folder / "up", "..")
    linked(folder / "twice", folder / "file")
    code = code_files(folder)
    assert [*code.files] == ["net.py"]
    assert {*code.left_out} == {"file", "package", "up", "twice"}
    assert all("out of the folder" in reason for reason in code.left_out.values())


def test_links_inside_the_folder_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"src/mine/net.py": "net", "a/a.py": "", "b/b.py": ""})
    linked(folder / "mine", "src/mine")
    linked(folder / "same.py", folder / "mine" / "net.py")
    linked(folder / "src" / "back", folder)
    linked(folder / "a" / "b", folder / "b")
    linked(folder / "b" / "a", folder / "a")
    code = code_files(folder)
    assert {*code.files} == {
        *("src/mine/net.py", "mine/net.py", "same.py"),
        *("a/a.py", "a/b/b.py", "b/b.py", "b/a/a.py"),
    }
    assert {*code.left_out} == {"src/back", "a/b/a", "b/a/b"}
    unpack(pack(code), tmp_path.parent / "there")
    assert (tmp_path.parent / "there" / "mine" / "net.py").read_text() == "net"


@pytest.mark.parametrize("target", [".env", ".git/config", ".aws", ".aws/c", "keys", "."])
def test_a_secret_does_not_travel_under_the_name_of_a_link_to_it(tmp_path: Path, target: str) -> None:
    folder = folder_of(tmp_path, {".env": "s", ".git/config": "s", ".aws/c": "s", "keys": "PRIVATE KEY-----"})
    linked(folder / "settings", target)
    assert [*code_files(folder).files] == []


def test_what_is_no_file_stays_and_hangs_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"net.py": ""})
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / ".rayignore")
    linked(folder / ".#net.py", "user@host.1234:567")
    linked(folder / "circle", "circle")
    linked(folder / "null", "/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        code = code_files(folder)
    assert [*code.files] == ["net.py"]
    assert dict(code.left_out) == {
        ".#net.py": "a link to nothing",
        ".rayignore": "a pipe",
        "circle": "a link to nothing",
        "null": "a link out of the folder, to /dev/null",
        "pipe": "a pipe",
        "socket": "a socket",
    }


def test_a_name_that_is_not_utf_8_or_has_control_codes_is_one_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"net.py": "", "a\x1b]0;title\x07\n.py": ""})
    (folder / os.fsdecode(b"n\xffme.py")).write_text("")
    code = code_files(folder)
    assert {*code.files} == {"net.py", "a\x1b]0;title\x07\n.py"}
    assert [*code.left_out.values()] == ["its name is not UTF-8"]
    lines = [*code.lines()]
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert "n\\udcffme.py" in lines[-1]


def test_sizes_are_counted_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, {"net.py": ""})
    with (folder / "weights.bin").open("wb") as sparse:
        sparse.truncate(bundle.MOST_BYTES)
    (folder / "more").write_text("x")
    monkeypatch.setattr(
        bundle, "_content", lambda file: pytest.fail(f"{file} was read") if "weights" in str(file) else b""
    )
    assert "code: this is too much: at most 52,428,800 bytes can travel" in code_files(folder).lines()
    with pytest.raises(SpecError, match=r"holds 52,428,801 bytes \(the largest file is weights\.bin\).*\.rayignore"):
        packed_of(folder)


def test_files_and_their_sizes_are_shown_the_largest_first(tmp_path: Path) -> None:
    files = {f"{number:02}.py": "x" * number for number in range(30)}
    lines = [*code_files(folder_of(tmp_path, {**files, ".env": "s"})).lines()]
    assert not [line for line in lines if "too much" in line]
    assert lines[0] == f"code: 30 files with 435 bytes travel from {tmp_path}:"
    assert lines[1] == "            29  29.py"
    assert lines[-2:] == [
        "  and 10 smaller files; tuner submit --dry-run shows all",
        "code: .env stays here: it looks like a secret",
    ]
    many = [*code_files(folder_of(tmp_path / "many", {f"{number:02}.pem": "" for number in range(30)})).lines()]
    assert len(many) == 1 + 20 + 1
    assert many[-1] == "code: 10 more stay here; tuner submit --dry-run shows all"


def test_what_is_unpacked_is_for_its_owner_only_and_whole(tmp_path: Path) -> None:
    packed = packed_of(folder_of(tmp_path / "here", {"net.py": "x", "parts/block.py": "x"}))
    folder_of(tmp_path / "there.new", {"half.py": "of an earlier try"})
    unpack(packed, tmp_path / "there")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "there").rglob("*.py")}
    assert modes == {"net.py": 0o600, "block.py": 0o600}
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o700
    with pytest.raises(zipfile.BadZipFile):
        unpack(b"no zip", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_the_bytes_of_code_without_secrets_are_those_of_before(tmp_path: Path) -> None:
    """A job's id holds a checksum of them: the same spec and code must stay the same job."""
    folder = folder_of(tmp_path, {"b.py": "b", "a/c.py": "c", "a-b.py": "d", ".gitignore": "*.log\n", "x.log": "x"})
    before = BytesIO()
    with zipfile.ZipFile(before, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (".gitignore", "a/c.py", "a-b.py", "b.py"):
            archive.writestr(zipfile.ZipInfo(name, bundle.EPOCH), (folder / name).read_bytes())
    assert packed_of(folder) == before.getvalue()


def test_a_workspace_in_the_folder_stays_whatever_its_name_is(tmp_path: Path) -> None:
    """Its stores change with each job: with them, the same code would never be the same job twice."""
    folder = folder_of(
        tmp_path, {"net.py": "", "runs/jobs/a-1/start.json": "{}", "runs/mlflow.db": "", "jobs/b.py": ""}
    )
    code = code_files(folder)
    assert [*code.files] == ["jobs/b.py", "net.py"]
    assert dict(code.left_out) == {"runs": "a workspace with jobs"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_what_cannot_be_read_stays_and_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"net.py": "", "closed/a": "", "b": ""})
    (folder / "closed").chmod(0)
    (folder / "b").chmod(0)
    assert dict(code_files(folder).left_out) == {"closed": "it cannot be read", "b": "it cannot be read"}
