"""How this machine reaches KFP, the store and MLflow: ways, tokens, keys and who may read them."""

from __future__ import annotations

import base64

import pytest

from crucible.cluster.access import client_environ, kfp_access, read_secret
from crucible.errors import ClusterRefused, ClusterUnavailable, ObjectNotFound, UserError
from crucible.specs.context import ContextDocument, SecretKeySpec

SECRETS = "/api/v1/namespaces/runs/secrets"
KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}


def context(**fields: object) -> ContextDocument:
    return ContextDocument.model_validate({
        "apiVersion": "crucible/v1",
        "kind": "Context",
        "metadata": {"name": "dev"},
        "kubernetes": {"namespace": "runs"},
        "store": {"uri": "s3://bucket/prefix", "endpoint": "http://store:9000"},
        "images": {"base": f"registry/base@sha256:{'0' * 64}"},
        **fields,
    })  # fmt: skip


def kfp(**api: object) -> ContextDocument:
    return context(pipelines={"api": api})


def put_secret(api, name: str, **data: str) -> None:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    api.put(SECRETS, {"metadata": {"name": name}, "data": encoded})


def test_kfp_at_an_address_without_a_token(connection) -> None:
    with kfp_access(kfp(access="url", url="https://kfp.example/"), connection, {}) as access:
        assert (access.host, access.token(), access.ca_file) == ("https://kfp.example", None, None)
        assert access.verify


def test_the_token_is_read_each_time(connection, tmp_path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    api = {"access": "url", "url": "https://kfp", "token": {"file": str(path)}, "ca_file": "/ca"}
    with kfp_access(kfp(**api), connection, {}) as access:
        assert access.token() == "first"
        path.write_text("second")
        assert access.token() == "second"
        assert access.ca_file == "/ca"
        path.unlink()
        with pytest.raises(UserError, match=str(path)):
            access.token()


def test_a_token_in_the_environment(connection) -> None:
    api = kfp(access="url", url="https://kfp", token={"env": "KFP_TOKEN"})
    with kfp_access(api, connection, {"KFP_TOKEN": "t"}) as access:
        assert access.token() == "t"
    with (
        kfp_access(api, connection, {}) as access,
        pytest.raises(UserError, match="KFP_TOKEN is empty"),
    ):
        access.token()


def test_the_service_proxy_uses_the_kubeconfigs_credentials(api, connection) -> None:
    with kfp_access(kfp(access="service-proxy"), connection) as access:
        way = "/api/v1/namespaces/kubeflow/services/http:ml-pipeline:8888/proxy"
        assert access.host == f"{api.url}{way}"
        assert access.token() == "secret"
    assert api.requests == []


def test_a_forward_to_what_is_not_there(connection) -> None:
    with (
        pytest.raises(ObjectNotFound, match="Service ml-pipeline in namespace kubeflow"),
        kfp_access(kfp(access="port-forward"), connection),
    ):
        pass


def test_a_forward_to_a_service_without_a_ready_pod(api, connection) -> None:
    spec = {"selector": {"app": "kfp"}, "ports": [{"port": 8888, "targetPort": "http"}]}
    services = "/api/v1/namespaces/kubeflow/services"
    api.put(services, {"metadata": {"name": "ml-pipeline"}, "spec": spec})
    with (
        pytest.raises(ClusterUnavailable, match="no pod is ready"),
        kfp_access(kfp(access="port-forward"), connection),
    ):
        pass
    spec["ports"][0]["port"] = 80
    api.put(services, {"metadata": {"name": "ml-pipeline"}, "spec": spec})
    with (
        pytest.raises(ObjectNotFound, match=r"no port 8888. It has 80"),
        kfp_access(kfp(access="port-forward"), connection),
    ):
        pass


def test_keys_of_this_machine_come_first(api, connection) -> None:
    environ = {**KEYS, "AWS_SESSION_TOKEN": "session", "OTHER": "x"}
    with client_environ(context(), connection, environ) as found:
        assert found == {
            "CRUCIBLE_STORE": "s3://bucket/prefix",
            "CRUCIBLE_S3_ENDPOINT": "http://store:9000",
            "AWS_REGION": "us-east-1",
            **KEYS,
            "AWS_SESSION_TOKEN": "session",
        }
    assert api.requests == []


def test_else_they_come_from_the_secret(api, connection) -> None:
    put_secret(api, "crucible-store", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    put_secret(api, "mlflow", token="t")
    document = context(
        store={"uri": "s3://b", "region": "eu", "client_endpoint": "https://s3.example"},
        mlflow={"uri": "http://mlflow:5000", "token_secret": {"name": "mlflow", "key": "token"}},
    )
    with client_environ(document, connection, {"AWS_ACCESS_KEY_ID": "half"}) as found:
        assert found == {
            "CRUCIBLE_STORE": "s3://b",
            "CRUCIBLE_S3_ENDPOINT": "https://s3.example",
            "AWS_REGION": "eu",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "MLFLOW_TRACKING_URI": "http://mlflow:5000",
            "MLFLOW_TRACKING_TOKEN": "t",
        }


def test_a_role_instead_of_keys(api, connection) -> None:
    document = context(store={"uri": "s3://bucket", "secret": None})
    with client_environ(document, connection, {}) as found:
        assert found == {"CRUCIBLE_STORE": "s3://bucket", "AWS_REGION": "us-east-1"}
    assert api.requests == []


def test_no_secret(connection) -> None:
    with (
        pytest.raises(UserError, match=r"Secret crucible-store.*Or set AWS_ACCESS_KEY_ID"),
        client_environ(context(), connection, {}),
    ):
        pass


def test_no_right_to_read_the_secret(api, connection) -> None:
    api.denied = ["get v1/secrets"]
    with (
        pytest.raises(ClusterRefused, match=r"get secrets in namespace runs.*Or set AWS"),
        client_environ(context(), connection, {}),
    ):
        pass


def test_a_secret_without_the_key_tells_its_keys_and_no_value(api, connection) -> None:
    put_secret(api, "s", accesskey="very-secret")
    with pytest.raises(UserError, match="accesskey") as caught:
        read_secret(connection, SecretKeySpec(name="s", key="AWS_ACCESS_KEY_ID"))
    assert "very-secret" not in caught.value.message
    assert base64.b64encode(b"very-secret").decode() not in caught.value.message
