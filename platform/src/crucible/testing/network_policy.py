"""Who may talk to whom under a set of NetworkPolicies, as the API's documentation defines it.

A pod that no policy selects for a direction may do anything in it. One that is selected may do what
one of these policies allows. A connection needs both ends' consent. Ports are those of pods:
Services are resolved before.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]
_NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Pod:
    """One end of a connection."""

    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)
    """Numbers of named ports."""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    """Beyond its name, which each namespace carries."""


Peer = Pod | str
"""A pod, or an address outside of the cluster's network, nodes included."""


def allowed(
    policies: Iterable[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """True if a connection may be opened."""
    rules = list(policies)
    return _consents(rules, "Egress", source, target, (port, protocol)) and _consents(
        rules, "Ingress", target, source, (port, protocol)
    )


def _consents(
    policies: list[Policy], direction: str, pod: Peer, other: Peer, port: tuple[int, str]
) -> bool:
    """True if one end lets the connection pass; ``port`` is the target's in both directions."""
    if isinstance(pod, str):
        return True
    target = other if direction == "Egress" else pod
    selecting = [policy for policy in policies if _selects(policy, pod, direction)]
    rules = [rule for policy in selecting for rule in policy["spec"].get(direction.lower(), [])]
    return not selecting or any(
        _peer_matches(rule, direction, pod, other) and _port_matches(rule, target, port)
        for rule in rules
    )


def _selects(policy: Policy, pod: Pod, direction: str) -> bool:
    spec = policy["spec"]
    default = ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return (
        policy["metadata"]["namespace"] == pod.namespace
        and direction in spec.get("policyTypes", default)
        and matches(spec["podSelector"], pod.labels)
    )


def _peer_matches(rule: Mapping[str, Any], direction: str, pod: Pod, other: Peer) -> bool:
    peers = rule.get("to" if direction == "Egress" else "from", [])
    return not peers or any(_is(peer, pod, other) for peer in peers)


def _is(peer: Mapping[str, Any], pod: Pod, other: Peer) -> bool:
    if isinstance(other, str):
        block = peer.get("ipBlock")
        return block is not None and _in_block(block, other)
    if "ipBlock" in peer:  # meant for addresses outside; whether pods match differs by network
        return False
    if "namespaceSelector" in peer:
        names = {**other.namespace_labels, _NAME_LABEL: other.namespace}
        if not matches(peer["namespaceSelector"], names):
            return False
    elif other.namespace != pod.namespace:
        return False
    return matches(peer.get("podSelector", {}), other.labels)


def _in_block(block: Mapping[str, Any], address: str) -> bool:
    ip = ipaddress.ip_address(address)
    excluded = any(ip in ipaddress.ip_network(cidr) for cidr in block.get("except", []))
    return ip in ipaddress.ip_network(block["cidr"]) and not excluded


def _port_matches(rule: Mapping[str, Any], target: Peer, port: tuple[int, str]) -> bool:
    ports = rule.get("ports", [])
    return not ports or any(_is_port(entry, target, *port) for entry in ports)


def _is_port(entry: Mapping[str, Any], target: Peer, number: int, protocol: str) -> bool:
    if entry.get("protocol", "TCP") != protocol:
        return False
    wanted = entry.get("port")
    if isinstance(wanted, str):
        wanted = None if isinstance(target, str) else target.ports.get(wanted)
        return wanted == number
    return wanted is None or wanted <= number <= entry.get("endPort", wanted)


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """True if a label selector selects a set of labels; an empty one selects all."""
    equal = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in equal.items()) and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions", [])
    )


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", [])
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case operator:
            raise ValueError(f"no such operator: {operator}")
