"""context, and doctor where the context is a cluster, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crucible.testing.kube_api import kube_api

CONTEXT = """\
apiVersion: crucible/v1
kind: Context
metadata: {{name: dev}}
kubernetes: {{kubeconfig: {kubeconfig}}}
store: {{uri: "s3://bucket", endpoint: "http://127.0.0.1:9"}}
images: {{base: "registry/base@sha256:{digest}"}}
"""


@pytest.fixture
def environment(environment, tmp_path) -> dict[str, str]:
    environment.pop("CRUCIBLE_CONTEXT")
    keys = {"AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "k"}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path / "config"), **keys}
    return environment


def write_context(tmp_path: Path, server: str) -> Path:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump({
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "jane", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "jane"}}],
    }))  # fmt: skip
    path = tmp_path / "dev.yaml"
    path.write_text(CONTEXT.format(kubeconfig=kubeconfig, digest="0" * 64))
    return path


def test_a_contexts_life(platformctl, tmp_path) -> None:
    file = write_context(tmp_path, "http://127.0.0.1:1")
    assert platformctl("context", "current").out == "local\n"
    assert platformctl("context", "add", file).code == 0
    assert platformctl("context", "use", "dev").code == 0
    assert platformctl("context", "current").out == "dev\n"
    entries = platformctl("context", "list", "--json").json
    assert [(e["name"], e["is_current"]) for e in entries] == [("local", False), ("dev", True)]
    assert platformctl("context", "show").out == file.read_text()
    shown = platformctl("context", "show", "dev", "--json").json
    assert shown["kubernetes"]["namespace"] == "kubeflow"
    assert shown["apiVersion"] == "crucible/v1"
    assert platformctl("context", "remove", "dev").code == 0
    assert platformctl("context", "current", "--json").json == {"name": "local", "path": None}


def test_this_machine_can_be_shown(platformctl, environment) -> None:
    shown = platformctl("context", "show", "--json").json
    assert shown["home_dir"] == environment["CRUCIBLE_HOME"]


def test_mistakes_are_user_errors(platformctl, tmp_path) -> None:
    file = write_context(tmp_path, "http://127.0.0.1:1")
    platformctl("context", "add", file)
    done = platformctl("context", "use", "deb")
    assert done.code == 2
    assert "Did you mean 'dev'" in done.err
    done = platformctl("context", "add", file)
    assert done.code == 2
    assert "--replace" in done.err
    file.write_text(file.read_text().replace("kubeconfig:", "kubconfig:"))
    done = platformctl("context", "add", file, "--replace", "--json")
    assert done.code == 2
    assert done.json["problems"][0]["line"] == 4


def test_use_warns_where_the_variable_wins(platformctl, environment, tmp_path) -> None:
    platformctl("context", "add", write_context(tmp_path, "http://127.0.0.1:1"))
    environment["CRUCIBLE_CONTEXT"] = "local"
    done = platformctl("context", "use", "dev")
    assert done.code == 0
    assert "CRUCIBLE_CONTEXT=local wins" in done.err
    assert platformctl("context", "current").out == "local\n"


def test_names_can_be_completed(platformctl, environment, tmp_path) -> None:
    platformctl("context", "add", write_context(tmp_path, "http://127.0.0.1:1"))
    variables = {
        "_PLATFORMCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "platformctl context use ",
        "COMP_CWORD": "3",
    }
    environment |= variables
    assert platformctl().out.split() == ["local", "dev"]


def test_doctor_looks_at_the_cluster(platformctl, environment, tmp_path) -> None:
    with kube_api() as api:
        api.documents["/version"] = {"gitVersion": "v1.34.4"}
        platformctl("context", "add", write_context(tmp_path, api.url))
        platformctl("context", "use", "dev")
        done = platformctl("doctor", "--json")
    checks = {check["name"]: check for check in done.json}
    assert done.code == 1
    assert checks["kubernetes"]["passed"]
    assert "v1.34.4" in checks["kubernetes"]["detail"]
    assert not checks["namespace"]["passed"]
    assert "artifact store" not in checks, "the store is the cluster's"
    assert [c for c in done.json if not c["passed"] and not c["fix"]] == []


def test_doctor_of_a_chosen_context_that_is_gone(platformctl, environment) -> None:
    environment["CRUCIBLE_CONTEXT"] = "gone"
    done = platformctl("doctor", "--json")
    assert done.code == 2
    assert "there is no context 'gone'" in done.json["message"]


def test_verbs_on_contexts_load_nothing_heavy(environment) -> None:
    code = (
        "import json, sys\n"
        "from crucible.cli.main import app\n"
        "app(['context', 'list'], standalone_mode=False)\n"
        "print(json.dumps([m for m in ('kubernetes', 'urllib3', 'kfp') if m in sys.modules]))\n"
    )
    env = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
