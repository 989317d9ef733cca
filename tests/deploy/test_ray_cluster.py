"""cluster/ray-cluster.yaml against the schema of Ray's own launcher."""

import copy
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.deploy.stack import ROOT

FILE = ROOT / "cluster" / "ray-cluster.yaml"
CONFIG: dict[str, Any] = YAML(typ="safe", pure=True).load(FILE.read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config

    filled: dict[str, Any] = prepare_config(copy.deepcopy(config))
    return filled


def test_the_launcher_accepts_it() -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared(CONFIG))


def test_the_check_would_notice_a_key_that_does_not_exist() -> None:
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepared(CONFIG) | {"max_worker": 4})


def test_every_node_requires_the_token() -> None:
    options = CONFIG["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in options
    path = next(option for option in options if "RAY_AUTH_TOKEN_PATH" in option).rpartition("=")[2]
    assert CONFIG["file_mounts"] == {path: "secrets/ray_token"}


def test_workers_know_nothing_of_the_stores() -> None:
    stores = ("TUNER_STORAGE", "PGPASSFILE", "MLFLOW_TRACKING")
    shared = str(CONFIG["docker"]["run_options"])
    assert not any(name in shared for name in stores)
    assert all(name in str(CONFIG["docker"]["head_run_options"]) for name in stores)
    head, worker = (CONFIG["available_node_types"][kind]["node_config"] for kind in ("head", "worker"))
    assert head["IamInstanceProfile"] != worker["IamInstanceProfile"]


def test_no_trial_runs_on_the_head_and_its_dashboard_is_on_loopback() -> None:
    assert CONFIG["available_node_types"][CONFIG["head_node_type"]]["resources"] == {"CPU": 0}
    start = CONFIG["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert CONFIG["provider"]["use_internal_ips"] is True


def test_the_image_has_this_version() -> None:
    from tuner import __version__

    assert CONFIG["docker"]["image"].endswith(f":{__version__}")
    assert __version__ in CONFIG["setup_commands"][0]
