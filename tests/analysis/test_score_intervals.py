"""Which targets have Wilson intervals: every metric that is 0 or 1, by the one list that names them."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import scipy.stats

from analysis.score_intervals import is_binary, with_score_intervals
from harness.spec.metrics import METRICS_OF


@pytest.mark.parametrize("kind", ["instruct", "refusal", "number", "multiple_choice", "generate"])
def test_primary_metric_of_a_kind_that_scores_0_or_1_is_binary(kind: str) -> None:
    assert is_binary(f"suite/task/{METRICS_OF[kind][0]}")


@pytest.mark.parametrize("target", ["learned", "s/t/bits_per_byte", "s/t/followed_strict", "s/t/rep_4", "acc"])
def test_target_that_is_no_share_is_not_binary(target: str) -> None:
    assert not is_binary(target)


def test_share_of_refusals_has_the_wilson_interval() -> None:
    effects = pd.DataFrame(
        {"target": ["safety/asks/refused"], "num_items": [40], "before": [0.25], "after": [math.nan]}
    )
    row = with_score_intervals(effects).iloc[0]
    reference = scipy.stats.binomtest(10, 40).proportion_ci(0.95, method="wilson")
    assert (row["before_low"], row["before_high"]) == pytest.approx((reference.low, reference.high))
    assert math.isnan(row["after_low"])
