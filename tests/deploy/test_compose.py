"""Checks the rules for docker-compose.yml on every service."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.stack import (
    HOLD_STORES,
    ONE_SHOT,
    PUBLISHED,
    RAY,
    RAY_NODES,
    ROOT,
    SERVICES,
    STACK,
    environment,
    texts,
    variables,
)

SECRET_WORD = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@")

every_service = pytest.mark.parametrize("name", SERVICES)


@every_service
def test_a_container_has_minimal_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    for loosened in ("privileged", "cap_add", "network_mode", "pid", "ipc", "userns_mode", "devices", "extra_hosts"):
        assert loosened not in service


@every_service
def test_a_container_has_resource_limits(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) >= {"cpus", "memory", "pids"}
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    assert all("size=" in mount for mount in service["tmpfs"])


@every_service
def test_an_image_is_pinned_to_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", SERVICES[name]["image"])


@every_service
def test_ports_are_published_on_loopback_and_only_two(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert [int(port.rpartition(":")[2]) for port in ports] == ([PUBLISHED[name]] if name in PUBLISHED else [])


@every_service
def test_only_published_services_are_on_a_second_network(name: str) -> None:
    assert set(SERVICES[name]["networks"]) == {"internal"} | ({"publish"} if name in PUBLISHED else set())


def test_no_network_reaches_the_outside() -> None:
    networks = STACK["networks"]
    assert set(networks) == {"internal", "publish"}
    assert networks["internal"]["internal"] is True
    assert networks["publish"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}


@every_service
def test_every_service_has_a_health_check(name: str) -> None:
    health = SERVICES[name]["healthcheck"]
    if name in ONE_SHOT:
        assert health == {"disable": True}
    else:
        assert health["test"][0] == "CMD"
        assert {"interval", "timeout", "retries", "start_period"} <= set(health)


@every_service
def test_a_service_starts_after_its_dependencies_are_healthy(name: str) -> None:
    needs = SERVICES[name].get("depends_on", {})
    assert name in {"postgres", "s3"} or needs
    for needed, how in needs.items():
        once = needed in ONE_SHOT
        assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")
        # A dependency with another profile may not run. Then the service must not wait for it.
        together = SERVICES[needed].get("profiles") in (None, SERVICES[name].get("profiles"))
        assert how.get("required", True) == together


@every_service
def test_a_service_restarts_by_itself(name: str) -> None:
    assert SERVICES[name]["restart"] == {"cli": "no", "s3-bucket": "on-failure"}.get(name, "unless-stopped")


@every_service
def test_no_secret_is_in_the_environment_or_in_arguments(name: str) -> None:
    for key, value in environment(SERVICES[name]).items():
        if SECRET_WORD.search(key) and value is not None:
            assert value.startswith(("/run/secrets/", "/run/tuner/")), key
    assert not any(PASSWORD_IN_URL.search(text) for text in texts(SERVICES[name]))


@every_service
def test_only_users_of_the_stores_have_their_passwords(name: str) -> None:
    service = SERVICES[name]
    held = {secret for secret in service["secrets"] if "pgpass" in secret or "mlflow" in secret or "postgres" in secret}
    expected = {
        "postgres": {"postgres_password", "tuner_pgpass", "mlflow_pgpass"},
        "mlflow": {"mlflow_auth.ini", "mlflow_secret_key", "mlflow_pgpass"},
    } | {user: {"tuner_pgpass", "mlflow_password"} for user in HOLD_STORES}
    assert held == expected.get(name, set())
    known = {key for key in environment(service) if key.startswith(("TUNER_STORAGE", "MLFLOW_TRACKING"))}
    assert bool(known) == (name in HOLD_STORES)


@pytest.mark.parametrize("name", sorted(RAY))
def test_ray_requires_its_token_everywhere(name: str) -> None:
    assert environment(SERVICES[name])["RAY_AUTH_MODE"] == "token"
    assert environment(SERVICES[name])["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert "ray_token" in SERVICES[name]["secrets"]
    assert environment(SERVICES[name])["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("name", sorted(RAY_NODES))
def test_a_node_has_shared_memory_and_the_same_folders(name: str) -> None:
    service = SERVICES[name]
    assert "shm_size" in service
    mounted = {mount.rpartition(":/")[2].removesuffix(":ro"): mount for mount in service["volumes"]}
    assert set(mounted) == {"var/lib/tuner", "shared", "data"}
    assert [path for path, mount in mounted.items() if mount.endswith(":ro")] == ["data"]
    assert environment(service)["TUNER_HOME"] == "/var/lib/tuner"


def test_no_trial_runs_on_the_head() -> None:
    assert "--num-cpus=0 --num-gpus=0" in " ".join(SERVICES["head"]["command"])


def test_workers_can_be_scaled() -> None:
    assert not {"container_name", "hostname", "ports"} & set(SERVICES["worker"])


def test_the_tracker_checks_passwords_and_host_names() -> None:
    command = SERVICES["mlflow"]["command"]
    assert "--app-name=basic-auth" in command
    assert "--allowed-hosts=" in command
    assert "--serve-artifacts" in command
    assert environment(SERVICES["mlflow"])["MLFLOW_AUTH_CONFIG_PATH"] == "/run/secrets/mlflow_auth.ini"
    assert environment(SERVICES["mlflow"])["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment(SERVICES["mlflow"])["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_every_volume_and_secret_is_declared_and_used() -> None:
    volumes = {
        re.sub(r"\$\{\w+:-(\w+)\}", r"\1", mount).split(":")[0]
        for service in SERVICES.values()
        for mount in service.get("volumes", [])
    }
    assert {volume for volume in volumes if not volume.startswith(("$", "."))} == set(STACK["volumes"])
    assert {secret for service in SERVICES.values() for secret in service["secrets"]} == set(STACK["secrets"])


def test_the_example_of_env_lists_the_settings() -> None:
    shown = set(re.findall(r"^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert shown <= variables()
    limits = {name for name in variables() if name.endswith(("_CPUS", "_MEMORY"))}
    assert variables() - shown <= limits | {"SPECS", "AWS_REGION"}


def test_secrets_are_neither_committed_nor_sent_to_the_builder() -> None:
    assert {"secrets/", ".env"} <= set((ROOT / ".gitignore").read_text().split())
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_the_linter_finds_nothing_without_an_explanation() -> None:
    linted = subprocess.run(
        [sys.executable, "-m", "compose_lint", "check", "--fail-on", "low", "--strict-config", "docker-compose.yml"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def compose() -> list[str] | None:
    """The command of Docker's compose plugin, version 2 or newer. It can read a file without a Docker engine."""
    unpacked = ROOT / "build" / "compose" / "docker-compose"
    for command in ([str(unpacked)], ["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        asked = subprocess.run([*command, "version", "--short"], check=False, capture_output=True, text=True)
        if asked.returncode == 0 and not asked.stdout.startswith(("1.", "v1.")):
            return command
    return None


@pytest.mark.skipif(compose() is None, reason="needs Docker's compose plugin: bash .ci/compose")
@pytest.mark.parametrize("profiles", [[], ["gpu"], ["s3"], ["cli"], ["gpu", "s3", "cli"]])
def test_compose_itself_accepts_the_file(profiles: list[str], tmp_path: Path) -> None:
    command: Any = compose()
    chosen = [option for profile in profiles for option in ("--profile", profile)]
    checked = subprocess.run(
        [*command, "--file", "docker-compose.yml", *chosen, "config", "--quiet"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
