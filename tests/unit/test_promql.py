"""The tests' parser of PromQL expressions."""

import pytest

from tests.support.promql import labels_grouped_by, selectors_in


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ("up == 0", ["up"]),
        ('sum by (job) (rate(a_total{x="1",y=~"2|3"}[5m]))', ['a_total{x="1",y=~"2|3"}']),
        (
            "job:a:rate5m > 14.4 * 0.001 and job:b:rate1h * 3600 >= 10",
            ["job:a:rate5m", "job:b:rate1h"],
        ),
        ("max by (a) (g > 0) - time() < 2 * 86400", ["g"]),
        ("a and on (job, instance) b == 1", ["a", "b"]),
        ("a_total > 0 unless max_over_time(a_total[1h] offset 15m)", ["a_total", "a_total"]),
        ("count_over_time((g > 2)[10m:15s])", ["g"]),
        ('label_replace(up, "x", "$1", "instance", "(.*)")', ["up"]),
        ("histogram_quantile(0.99, sum by (le) (rate(h_bucket[5m])))", ["h_bucket"]),
        ("1e3 * a / ignoring (x) group_left b", ["a", "b"]),
    ],
)
def test_selectors_of_expression(expression: str, read: list[str]) -> None:
    assert [str(one) for one in selectors_in(expression)] == read


def test_histogram_series_belong_to_one_family() -> None:
    assert {one.family for one in selectors_in("h_bucket + h_sum + h_count")} == {"h"}


def test_grouping_labels_of_expression() -> None:
    assert labels_grouped_by("sum by (a, b) (x) / on (a) group_left (c) y") == {"a", "b", "c"}
