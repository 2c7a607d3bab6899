"""Metrics of card games on episodes counted by hand."""

import numpy as np
import pytest

from vlrl.envs.cards import GAMES
from vlrl.envs.cards.transcripts import PlayedTurn, Turn
from vlrl.metrics.bootstrap import wilson
from vlrl.metrics.cards import EpisodeRow, card_metrics, episode_row

pytestmark = pytest.mark.quick


def test_metrics_of_episodes_counted_by_hand():
    rows = [
        EpisodeRow(10, 8, 8, 8, 8, 8, 8, solvable=True, pressed_equals=True),
        EpisodeRow(1, 17, 8, 16, 0, 17, 9, solvable=True, pressed_equals=True),
        EpisodeRow(0, 3, 3, 0, 1, 1, 0, solvable=True, pressed_equals=False),
        EpisodeRow(-1, 2, 1, 1, 1, 0, 0, solvable=False, pressed_equals=True),
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
            "right_moves": 17 / 26,
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


@pytest.mark.parametrize(
    ("name", "options", "actions", "counts"),
    [
        ("points24", {"numbers": [4, 6, 1, 1]}, "4 * 6 * 1 * 1 =", (8, 8)),
        (
            "points24",
            {"numbers": [4, 6, 1, 1]},
            "4 * 9 6 =",
            (5, 3),
        ),  # a number that was not dealt, which loses nothing yet; `=` too early
        ("points24", {"numbers": [4, 6, 1, 1]}, "4 + * 6", (2, 1)),  # after `4 +` the game is lost
        ("points24", {"numbers": [4, 6, 1, 1]}, "4 ? *", (2, 1)),  # a random token, here `1`, stands for what cannot be read
        ("points24", {"numbers": [1, 1, 1, 1]}, "1 + 1", (0, 0)),
        ("ezpoints", {"numbers": [2, 10]}, "2 + 10 + =", (4, 3)),
        ("numberline", {"start": 1, "target": 3}, "+ - + +", (4, 3)),
        ("blackjack", {"player": [2, 3], "dealer": [7, 8], "draws": [10, 5]}, "hit hit", (2, 2)),
        ("blackjack", {"player": [10, 10], "dealer": [7, 8], "draws": [2]}, "hit", (1, 0)),
    ],
)
def test_right_moves_are_counted_while_the_game_can_be_won(name, options, actions, counts):
    played, rng = GAMES[name], np.random.default_rng(0)
    state, turns = played.deal(rng, options), []
    for action in actions.split():
        token = action if action in played.tokens else "1"
        after = played.step(state, token, rng)
        known = action if action in played.tokens else None
        turns.append(PlayedTurn(state, Turn(action), known, token, True, True, after.reward, after.done))
        assert played.lost(state) == (not played.good(state))
        state = after.state
    row = episode_row(turns[0].state, played, turns)
    assert (row.n_open, row.n_right) == counts
