"""Metrics of card games on episodes counted by hand."""

import pytest

from vlrl.metrics.cards import EpisodeRow, card_metrics
from vlrl.metrics.stats import wilson


def test_metrics_of_episodes_counted_by_hand():
    rows = [
        EpisodeRow(10, 8, 8, 8, 8, solvable=True, pressed_equals=True),
        EpisodeRow(1, 17, 8, 16, 0, solvable=True, pressed_equals=True),
        EpisodeRow(0, 3, 3, 0, 1, solvable=True, pressed_equals=False),
        EpisodeRow(-1, 2, 1, 1, 1, solvable=False, pressed_equals=True),
    ]
    found = card_metrics(rows)
    values = {name: metric.value for name, metric in found.items()}
    assert values == pytest.approx(
        {
            "success": 0.5,
            "return": 2.5,
            "steps": 7.5,
            "legal": 20 / 30,
            "valid": 25 / 30,
            "recognised": 10 / 30,
            "solvable": 0.75,
            "success_solvable": 2 / 3,
            "finished": 0.75,
        }
    )
    assert found["success"] == wilson(2, 4), "a return of 0 is no success"
    assert all(metric.ci95[0] <= metric.value <= metric.ci95[1] for metric in found.values())


def test_what_was_not_measured_has_no_metric():
    found = card_metrics([EpisodeRow(1, 2, 2, 2), EpisodeRow(-1, 4, 4, 4)])
    assert set(found) == {"success", "return", "steps", "legal", "valid"}
    assert card_metrics([])["success"].value is None
    lost = card_metrics([EpisodeRow(-1, 1, 1, 1, solvable=False)])
    assert lost["success_solvable"].value is None
