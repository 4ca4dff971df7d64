"""Intervals over seeds, one by one and judged together."""

import pytest
from scipy.stats import ttest_rel

from nepa.report.markdown import interval
from nepa.report.statistics import holds_among, paired_difference, seeds_needed


def test_paired_differences_are_student_s() -> None:
    ours, other = {0: 3.0, 1: 5.0, 2: 4.5, 7: 1.0}, {0: 1.0, 1: 2.0, 2: 3.5}
    difference = paired_difference(ours, other)
    test = ttest_rel([3.0, 5.0, 4.5], [1.0, 2.0, 3.5])
    expected = test.confidence_interval()
    assert difference.n == 3 and difference.mean == pytest.approx(2.0)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert difference.chance == pytest.approx(test.pvalue)
    assert paired_difference({0: 1.0}, {0: 1.0}).chance == 1.0
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_holm_s_correction() -> None:
    """The smallest against .05 / 4, the next against .05 / 3, and none after the first that does not hold."""
    assert holds_among([0.04, 0.012, 0.001, 0.03]) == [False, True, True, False]
    assert holds_among([0.03, 0.04]) == [False, False]
    assert holds_among([]) == []


def test_seeds_needed_are_those_of_the_tables_of_power() -> None:
    """Of a deviation of 1, at 5 % and 80 %, as Cohen's tables have it for one sample."""
    difference = paired_difference({0: 3.0, 1: 4.0, 2: 5.0}, dict.fromkeys(range(3), 0.0))
    assert [seeds_needed(difference, expected) for expected in (0.5, -0.5, 0.8, 1.0)] == [34, 34, 15, 10]
    assert seeds_needed(difference, 80.0) == 2 and seeds_needed(difference, 0.01) is None


def test_a_difference_of_fewer_seeds_says_so() -> None:
    difference = paired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.5, 2: 2.5})
    assert interval(difference, seeds=5).endswith("] (n = 3)")
    assert interval(difference, seeds=3).endswith("]")
