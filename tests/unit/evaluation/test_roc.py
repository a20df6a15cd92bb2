"""ROC curves against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from crucible_components.evaluation.roc import roc_curve


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60).filter(
        lambda rows: 0 < sum(label for _, label in rows) < len(rows)
    )
)
def test_equals_sklearn_with_any_ties(rows: list[tuple[int, bool]]) -> None:
    scores, labels = [value / 6 for value, _ in rows], [label for _, label in rows]
    ours = roc_curve(scores, labels)
    assert ours is not None
    false_positive, true_positive, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(ours.false_positive_rate, false_positive)
    np.testing.assert_allclose(ours.true_positive_rate, true_positive)
    assert ours.auc == pytest.approx(roc_auc_score(labels, scores))


def test_perfect_and_inverted_scores() -> None:
    perfect, inverted = (
        roc_curve([0.1, 0.2, 0.8, 0.9], labels)
        for labels in ([False, False, True, True], [True, True, False, False])
    )
    assert perfect is not None
    assert inverted is not None
    assert (perfect.auc, inverted.auc) == (1.0, 0.0)


def test_one_class_has_no_curve() -> None:
    assert roc_curve([0.5, 0.6], [True, True]) is None
    assert roc_curve([], []) is None
