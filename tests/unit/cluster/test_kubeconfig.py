"""Which file, context and credentials: as kubectl has it, and what is wrong said plainly."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from crucible.cluster.kubeconfig import load_identity
from crucible.errors import UserError
from crucible.specs.context import KubernetesSpec

SERVER = "http://127.0.0.1:1"


def write(path: Path, *contexts: str, current: str | None = None, server: str = SERVER,
          user: dict[str, object] | None = None, **cluster: object) -> Path:  # fmt: skip
    document = {
        "clusters": [
            {"name": f"c-{n}", "cluster": {"server": server, **cluster}} for n in contexts
        ],
        "users": [{"name": f"u-{n}", "user": user or {"token": f"t-{n}"}} for n in contexts],
        "contexts": [
            {"name": n, "context": {"cluster": f"c-{n}", "user": f"u-{n}"}} for n in contexts
        ],
    }
    if current:
        document["current-context"] = current  # type: ignore[assignment]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


def token_of(spec: KubernetesSpec, environ: dict[str, str]) -> str:
    return load_identity(spec, environ).configuration.get_api_key_with_prefix("authorization")


def refusal(spec: KubernetesSpec, environ: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        load_identity(spec, environ)
    return caught.value.message


def test_the_order_of_places(tmp_path) -> None:
    home = {"HOME": str(tmp_path)}
    write(tmp_path / ".kube/config", "default", current="default")
    assert token_of(KubernetesSpec(), home) == "Bearer t-default"
    env = {**home, "KUBECONFIG": str(write(tmp_path / "env", "env", current="env"))}
    assert token_of(KubernetesSpec(), env) == "Bearer t-env"
    named = write(tmp_path / "named", "named", current="named")
    assert token_of(KubernetesSpec(kubeconfig=str(named)), env) == "Bearer t-named"


def test_several_files_the_first_to_say_something_wins(tmp_path) -> None:
    files = [
        tmp_path / "missing",
        write(tmp_path / "one", "a", "b"),
        write(tmp_path / "two", "b", "c", current="b", user={"token": "of two"}),
        write(tmp_path / "three", "d", current="d"),
    ]
    env = {"KUBECONFIG": os.pathsep.join(map(str, files)), "HOME": str(tmp_path)}
    assert token_of(KubernetesSpec(), env) == "Bearer t-b"
    assert token_of(KubernetesSpec(context="c"), env) == "Bearer of two"
    assert token_of(KubernetesSpec(context="d"), env) == "Bearer t-d"


def test_no_cluster_anywhere(tmp_path) -> None:
    said = refusal(KubernetesSpec(), {"HOME": str(tmp_path)})
    assert "KUBECONFIG" in said
    assert str(tmp_path / ".kube/config") in said


def test_a_file_that_is_not_there(tmp_path) -> None:
    for spec, env in (
        (KubernetesSpec(kubeconfig="/no/such"), {}),
        (KubernetesSpec(), {"KUBECONFIG": "/no/such"}),
    ):
        assert "/no/such: there is no such file" in refusal(spec, {"HOME": str(tmp_path), **env})


def test_a_misspelt_context(tmp_path) -> None:
    path = write(tmp_path / "k", "production", "staging", current="staging")
    said = refusal(KubernetesSpec(kubeconfig=str(path), context="stagin"), {})
    assert "Did you mean 'staging'?" in said


def test_no_current_context(tmp_path) -> None:
    path = write(tmp_path / "k", "a", "b")
    assert "Valid: a, b" in refusal(KubernetesSpec(kubeconfig=str(path)), {})


@pytest.mark.parametrize(
    "text", ["{", "", "- a\n", "just words", "clusters: 3\ncurrent-context: a\n", "\x00"]
)
def test_what_is_no_kubeconfig(tmp_path, text) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    assert str(path) in refusal(KubernetesSpec(kubeconfig=str(path)), {})


def test_a_file_that_may_not_be_read(tmp_path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    assert str(path) in refusal(KubernetesSpec(kubeconfig=str(path)), {})


def test_certificates_that_are_not_there(tmp_path) -> None:
    path = write(tmp_path / "k", "a", current="a", server="https://h",
                 user={"client-certificate": "/no/crt", "client-key": "/no/key"})  # fmt: skip
    assert "/no/crt" in refusal(KubernetesSpec(kubeconfig=str(path)), {})


def plugin(tmp_path: Path, body: str) -> dict[str, object]:
    script = tmp_path / "login"
    script.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    script.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}}


def test_a_login_program_gives_the_token(tmp_path) -> None:
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from the program"},
    }
    user = plugin(tmp_path, f"print({json.dumps(credential)!r})")
    path = write(tmp_path / "k", "a", current="a", user=user)
    assert token_of(KubernetesSpec(kubeconfig=str(path)), {}) == "Bearer from the program"


def test_a_login_program_that_fails_says_why(tmp_path, capfd) -> None:
    user = plugin(tmp_path, "import sys; sys.exit('your session has expired')")
    path = write(tmp_path / "k", "a", current="a", user=user)
    said = refusal(KubernetesSpec(kubeconfig=str(path)), {})
    assert "your session has expired" in said
    assert str(tmp_path / "login") in said
    assert "log in again" in said
    assert capfd.readouterr().err == ""


def test_a_login_program_that_is_not_installed(tmp_path) -> None:
    user = plugin(tmp_path, "")
    user["exec"]["command"] = "no-such-login-program"  # type: ignore[index]
    path = write(tmp_path / "k", "a", current="a", user=user)
    said = refusal(KubernetesSpec(kubeconfig=str(path)), {})
    assert "no-such-login-program" in said
    assert "No such file" in said


def test_a_user_without_credentials(tmp_path) -> None:
    path = write(tmp_path / "k", "a", current="a", user={"auth-provider": {"name": "oidc"}})
    assert "no usable credentials" in refusal(KubernetesSpec(kubeconfig=str(path)), {})


def test_a_pods_service_account(tmp_path, monkeypatch) -> None:
    from kubernetes.config import incluster_config

    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text(f"the {name}")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    env = {"HOME": str(tmp_path / "empty"), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    identity = load_identity(KubernetesSpec(), env)
    assert identity.server == "https://10.0.0.1:443"
    token = identity.configuration.get_api_key_with_prefix("authorization")
    assert token == "bearer the token"
    (tmp_path / "token").unlink()
    assert "service account" in refusal(KubernetesSpec(), env)


@pytest.mark.parametrize(
    ("server", "cluster", "environ", "proxy"),
    [
        ("https://api.example", {}, {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.example", {}, {"https_proxy": "http://p:1"}, "http://p:1"),
        ("https://api.example", {}, {"http_proxy": "http://p:1"}, None),
        ("https://api.example", {"proxy-url": "http://q:2"}, {"HTTPS_PROXY": "http://p:1"},
         "http://q:2"),
        ("https://127.0.0.1:6443", {}, {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://localhost:6443", {}, {"HTTPS_PROXY": "http://p:1"}, None),
    ],
)  # fmt: skip
def test_proxies(tmp_path, server, cluster, environ, proxy) -> None:
    path = write(tmp_path / "k", "a", current="a", server=server, **cluster)
    configuration = load_identity(KubernetesSpec(kubeconfig=str(path)), environ).configuration
    assert configuration.proxy == proxy


def test_no_proxy_is_kept(tmp_path) -> None:
    path = write(tmp_path / "k", "a", current="a", server="https://api.example")
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example"}
    configuration = load_identity(KubernetesSpec(kubeconfig=str(path)), environ).configuration
    assert configuration.no_proxy == ".example"
