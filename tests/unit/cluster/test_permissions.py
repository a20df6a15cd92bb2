"""What we may do, and whether step pods may read every Secret."""

from __future__ import annotations

import pytest

from crucible.cluster.permissions import Right, check_rights, secrets_finding

RBAC = "/apis/rbac.authorization.k8s.io/v1"
LOCAL = f"{RBAC}/namespaces/runs"
RUNNER = {"kind": "ServiceAccount", "name": "runner", "namespace": "runs"}


def rule(verbs: list[str], resources: list[str], **fields: object) -> dict[str, object]:
    return {"apiGroups": [""], "verbs": verbs, "resources": resources, **fields}


def bind(api, subject: dict[str, str], *rules: object, everywhere: bool = False) -> None:
    kind, base = ("ClusterRole", RBAC) if everywhere else ("Role", LOCAL)
    prefix = "cluster" if everywhere else ""
    api.put(f"{base}/{prefix}roles", {"metadata": {"name": "r"}, "rules": list(rules)})
    binding = {"metadata": {"name": "b"}, "subjects": [subject]}
    reference = {"kind": kind, "name": "r"}
    api.put(f"{base}/{prefix}rolebindings", {**binding, "roleRef": reference})


def test_each_right_is_asked_for_as_the_server_wants_it(api, connection) -> None:
    asked = []

    def may(spec) -> bool:
        asked.append(spec["resourceAttributes"])
        return spec["resourceAttributes"]["resource"] != "secrets"

    api.may = may
    rights = [
        Right("get", "pods/log", "runs"),
        Right("list", "trainjobs.trainer.kubeflow.org", "runs"),
        Right("get", "secrets", "runs", "store"),
        Right("list", "nodes"),
    ]
    verdicts = check_rights(connection, rights)
    assert [v.right for v in verdicts] == rights
    assert [v.is_allowed for v in verdicts] == [True, True, False, True]
    by_resource = {entry["resource"]: entry for entry in asked}
    assert by_resource["pods"]["subresource"] == "log"
    assert by_resource["trainjobs"]["group"] == "trainer.kubeflow.org"
    assert by_resource["secrets"]["name"] == "store"
    assert by_resource["nodes"]["namespace"] == ""
    assert str(rights[2]) == "get secrets store in namespace runs"


def test_the_server_is_asked_about_the_account(api, connection) -> None:
    asked = []

    def may(spec) -> bool:
        asked.append(spec)
        return spec["resourceAttributes"]["verb"] == "list"

    api.may = may
    found = secrets_finding(connection, "runs", "runner")
    assert found.reads_all
    assert "list secrets" in found.detail
    assert {spec["user"] for spec in asked} == {"system:serviceaccount:runs:runner"}
    assert "system:serviceaccounts:runs" in asked[0]["groups"]
    api.may = lambda spec: False
    assert secrets_finding(connection, "runs", "runner").reads_all is False


@pytest.fixture
def no_admin(api) -> None:
    api.denied = ["create authorization.k8s.io/v1/subjectaccessreviews"]


@pytest.mark.usefixtures("no_admin")
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize(
    ("rules", "reads_all"),
    [
        ([rule(["get"], ["secrets"])], True),
        ([rule(["*"], ["*"], apiGroups=["*"])], True),
        ([rule(["watch"], ["configmaps", "secrets"])], True),
        ([rule(["get"], ["secrets"], resourceNames=["store"])], False),
        ([rule(["create"], ["secrets"])], False),
        ([rule(["get"], ["pods"])], False),
        ([rule(["get"], ["secrets"], apiGroups=["other"])], False),
    ],
)
def test_else_roles_are_read(api, connection, rules, reads_all, everywhere) -> None:
    bind(api, RUNNER, *rules, everywhere=everywhere)
    assert secrets_finding(connection, "runs", "runner").reads_all is reads_all


@pytest.mark.usefixtures("no_admin")
@pytest.mark.parametrize(
    ("subject", "reads_all"),
    [
        ({"kind": "ServiceAccount", "name": "runner"}, True),
        ({"kind": "Group", "name": "system:serviceaccounts"}, True),
        ({"kind": "User", "name": "system:serviceaccount:runs:runner"}, True),
        ({"kind": "ServiceAccount", "name": "runner", "namespace": "other"}, False),
        ({"kind": "ServiceAccount", "name": "other"}, False),
        ({"kind": "User", "name": "runner"}, False),
    ],
)
def test_whom_a_binding_means(api, connection, subject, reads_all) -> None:
    bind(api, subject, rule(["get"], ["secrets"]))
    assert secrets_finding(connection, "runs", "runner").reads_all is reads_all


@pytest.mark.usefixtures("no_admin")
def test_what_may_not_be_read_is_not_known(api, connection) -> None:
    api.denied.append("list rbac.authorization.k8s.io/v1/clusterrolebindings")
    found = secrets_finding(connection, "runs", "runner")
    assert found.reads_all is None
    assert "clusterrolebindings" in found.detail
    bind(api, RUNNER, rule(["get"], ["secrets"]))
    assert secrets_finding(connection, "runs", "runner").reads_all is True
