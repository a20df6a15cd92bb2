"""`kind: Context`: defaults, and every mistake at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from crucible.errors import UserError
from crucible.specs.context import ContextDocument, load_context
from crucible.specs.pools import pool_of

IMAGE = f"registry/base@sha256:{'0' * 64}"
FILE = f"""\
apiVersion: crucible/v1
kind: Context
metadata: {{name: dev}}
store: {{uri: "s3://bucket/prefix"}}
images: {{base: "{IMAGE}"}}
"""


def load(tmp_path: Path, more: str = "", text: str = FILE) -> ContextDocument:
    path = tmp_path / "dev.yaml"
    path.write_text(text + more)
    return load_context(path)


def problems(tmp_path: Path, more: str = "", text: str = FILE) -> list[tuple[str, int | None]]:
    with pytest.raises(UserError) as caught:
        load(tmp_path, more, text)
    assert all(problem.fix or "got" in problem.message for problem in caught.value.problems)
    return [(problem.path, problem.line) for problem in caught.value.problems]


def test_the_least_that_is_needed(tmp_path) -> None:
    found = load(tmp_path)
    assert found.kubernetes.namespace == "kubeflow"
    assert found.pipelines.api.access == "port-forward"
    assert found.store.secret == "crucible-store"
    assert found.mlflow is None
    assert found.step_retries == 2


def test_every_mistake_at_once(tmp_path) -> None:
    text = FILE.replace("s3://bucket/prefix", "https://bucket").replace("@sha256", ":latest#")
    found = problems(tmp_path, "namespace: x\n", text)
    assert found == [("store.uri", 4), ("images.base", 5), ("namespace", 6)]


def test_this_machine_is_no_name_for_a_cluster(tmp_path) -> None:
    assert problems(tmp_path, text=FILE.replace("dev", "local")) == [("metadata.name", 3)]


@pytest.mark.parametrize("token", ["{}", "{env: A, file: /b}"])
def test_a_token_has_one_place(tmp_path, token) -> None:
    api = f"pipelines: {{api: {{access: url, url: 'https://kfp', token: {token}}}}}\n"
    assert problems(tmp_path, api) == [("pipelines.api.token", 6)]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("kubernetes: {kubeconfig: config}\n", "kubernetes.kubeconfig"),
        ("pipelines: {api: {access: url, url: 'https://kfp', ca_file: ./ca}}\n",
         "pipelines.api.ca_file"),
        ("pipelines: {api: {access: url, url: 'https://kfp', token: {file: t}}}\n",
         "pipelines.api.token.file"),
    ],
)  # fmt: skip
def test_files_do_not_depend_on_the_folder(tmp_path, more, path) -> None:
    assert problems(tmp_path, more) == [(path, 6)]
    load(
        tmp_path,
        more.replace(": config", ": ~/config").replace("./ca", "/ca").replace(": t}", ": ~/t}"),
    )


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("endpoint: 'http://store:1'", True),
        ("endpoint: 'https://store:1'", False),
        ("endpoint: 'https://store:1', client_endpoint: 'https://s'", True),
        ("region: eu", False),
    ],
)
def test_a_forward_does_not_lead_to_tls(tmp_path, endpoint, allowed) -> None:
    uri = '"s3://bucket/prefix"'
    text = FILE.replace(uri, f"{uri}, {endpoint}, forward: {{service: store, port: 1}}")
    if allowed:
        load(tmp_path, text=text)
    else:
        assert problems(tmp_path, text=text) == [("store.forward", 4)]


def test_mlflow_behind_tls_cannot_be_forwarded_either(tmp_path) -> None:
    more = "mlflow: {uri: 'https://m', forward: {service: m, port: 1}}\n"
    assert problems(tmp_path, more) == [("mlflow.forward", 6)]
    load(tmp_path, more.replace("https", "http"))


@pytest.mark.parametrize("name", ["CRUCIBLE_STORE", "AWS_REGION", "HOME"])
def test_variables_that_the_engine_sets(tmp_path, name) -> None:
    assert problems(tmp_path, f"env: [{{name: {name}, value: x}}]\n") == [("env[0].name", 6)]


def test_a_variable_has_one_source(tmp_path) -> None:
    secret = "secret: {name: s, key: k}"
    assert problems(tmp_path, f"env: [{{name: A, value: x, {secret}}}]\n") == [("env[0]", 6)]
    assert load(tmp_path, f"env: [{{name: A, {secret}}}]\n").env[0].secret.key == "k"


def test_pools_follow_the_convention_unless_told(tmp_path) -> None:
    found = load(tmp_path, "pools: {gpu-own: {node_selector: {a: b}, tolerations: []}}\n")
    assert pool_of(found, "cpu").node_selector == {}
    assert pool_of(found, "cpu").tolerations == []
    assert pool_of(found, "gpu-train").node_selector == {"crucible.dev/pool": "gpu-train"}
    taints = [(t.key, t.value) for t in pool_of(found, "gpu-train").tolerations]
    assert taints == [("crucible.dev/pool", "gpu-train"), ("nvidia.com/gpu", None)]
    assert pool_of(found, "gpu-own").node_selector == {"a": "b"}
    assert pool_of(found, "gpu-own").tolerations == []
