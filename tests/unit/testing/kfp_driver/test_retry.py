from __future__ import annotations

import pytest

from crucible.testing.kfp_driver.driver import ON_FAILURE
from crucible.testing.kfp_driver.retry import Retries


def retries(**fields: object) -> Retries:
    policy = {"maxRetryCount": 5, "backoffDuration": "10s", "backoffFactor": 2.0,
              "backoffMaxDuration": "300s"}  # fmt: skip
    found = Retries.of({"retryPolicy": policy | fields}, ON_FAILURE)
    assert found is not None
    return found


@pytest.mark.parametrize(("attempts", "wait"), [(1, 10), (2, 20), (3, 40), (4, 80)])
def test_waits_grow_by_the_factor(attempts: int, wait: float) -> None:
    assert retries().wait_seconds(attempts, "failed", 1.0) == wait


def test_nothing_is_tried_again_after_the_maximal_duration() -> None:
    """Seen: with 10 s, a step that fails after 20 s is not tried again."""
    assert retries().wait_seconds(1, "failed", 289.0) == 10
    assert retries().wait_seconds(1, "failed", 291.0) is None


def test_without_a_maximal_duration_nothing_is_tried_again_at_all() -> None:
    """KFP passes 0 for it."""
    found = Retries.of({"retryPolicy": {"maxRetryCount": 5}}, ON_FAILURE)
    assert found is not None
    assert found.wait_seconds(1, "failed", 0.1) is None


def test_the_count_is_a_limit_and_other_ends_are_none() -> None:
    assert retries().wait_seconds(5, "failed", 0.0) == 160
    assert retries().wait_seconds(6, "failed", 0.0) is None
    assert retries().wait_seconds(1, "error", 0.0) is None
    assert Retries.of({}, ON_FAILURE) is None
