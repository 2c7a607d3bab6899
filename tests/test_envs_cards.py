"""The rules of the card games: transition tables, exact counts, best play, and what a reply says."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from vlrl.envs.cards import GAMES, formulas, game, solvable
from vlrl.envs.cards.blackjack import bounds, total
from vlrl.envs.cards.deck import RANKS
from vlrl.envs.cards.formula import equals, exact_value

MULTISETS = list(itertools.combinations_with_replacement(range(1, 11), 4))
POINTS24, EZPOINTS, NUMBERLINE, BLACKJACK = (GAMES[name] for name in ("points24", "ezpoints", "numberline", "blackjack"))


def play(played, options, tokens, seed=0):
    """Rewards of these moves, the last outcome, and the states before each move."""
    rng = np.random.default_rng(seed)
    state, rewards, outcome = played.deal(rng, options), [], None
    for token in tokens:
        assert outcome is None or not outcome.done, f"over before {token!r}"
        outcome = played.step(state, token, rng)
        state = outcome.state
        rewards.append(outcome.reward)
    return rewards, outcome


def points(numbers, tokens, **options):
    return play(game("points24", **options), {"numbers": numbers}, tokens.split())


# ---- transition tables


def test_points24_table():
    rewards, end = points([4, 6, 1, 1], "4 * 6 * 1 * 1 =")
    assert rewards == [0] * 7 + [10]
    assert (end.terminated, end.truncated) == (True, False)
    rewards, end = points([4, 6, 1, 1], "4 * 6 =")
    assert (rewards, end.terminated) == ([0, 0, 0, -1], True)
    rewards, end = points([4, 6, 1, 1], "7")
    assert (rewards, end.done, end.state.formula) == ([-1], False, (" ",))
    assert end.state.left == Counter("4611")
    rewards, end = points([4, 6, 1, 1], "4 4")
    assert (rewards, end.done, end.state.formula) == ([0, -1], False, ("4", " "))
    rewards, end = points([9, 9, 1, 1], "=")
    assert (rewards, end.terminated) == ([-1], True)
    for last in ("=", "(", "9"):
        rewards, end = points([9, 9, 1, 1], "( " * 21 + last)
        assert rewards == [0] * 21 + [-1]
        assert (end.terminated, end.truncated, len(end.state.formula)) == (False, True, 21)
    rewards, end = points([4, 6, 1, 1], "( " * 6 + "4 * 6 * 1 * 1" + " )" * 6 + " =")
    assert (rewards[-1], end.terminated) == (10, True), "19 entries are not too many"


@pytest.mark.parametrize(
    ("numbers", "tokens", "exact", "python"),
    [
        ([3, 3, 8, 8], "8 / ( 3 - 8 / 3 ) =", 10, -1),
        ([1, 4, 5, 6], "4 / ( 1 - 5 / 6 ) =", 10, -1),
        ([1, 1, 2, 2], "1 2 * 2 * 1 =", -1, 10),
        ([1, 1, 2, 5], "5 * * 2 - 1 * 1 =", -1, 10),
        ([2, 3, 5, 5], "5 * 5 - 3 / / 2 =", -1, 10),
        ([1, 1, 4, 6], "4 * 6 / ( 1 - 1 ) =", -1, -1),
        ([1, 1, 4, 6], "- 1 + 1 + 4 * 6 =", -1, 10),
        ([1, 1, 4, 6], ") 4 * 6 * 1 * 1 =", -1, -1),
        ([1, 1, 4, 6], "9 4 * 6 * 1 * 1 =", 10, 10),
        ([1, 1, 4, 6], "4 * 6 * ( ) 1 * 1 =", -1, -1),
    ],
)
def test_the_switch_of_arithmetic(numbers, tokens, exact, python):
    assert points(numbers, tokens)[0][-1] == exact
    assert points(numbers, tokens, exact=False)[0][-1] == python


def test_ezpoints_table():
    assert play(EZPOINTS, {"numbers": [6, 6]}, ["6", "+", "6", "="])[0] == [0, 0, 0, 10]
    rewards, end = play(EZPOINTS, {"numbers": [2, 6]}, ["2", "*", "6", "="])
    assert (rewards, end.terminated) == ([0, 0, 0, 10], True)
    assert play(EZPOINTS, {"numbers": [2, 6]}, ["6", "+", "6", "="])[0] == [0, 0, -1, -1]
    rewards, end = play(EZPOINTS, {"numbers": [2, 6]}, ["+"] * 6 + ["="])
    assert (rewards, end.truncated, end.terminated) == ([0] * 6 + [-1], True, False)


def test_numberline_table():
    def walk(start, target, tokens):
        return play(NUMBERLINE, {"start": start, "target": target}, tokens)

    rewards, end = walk(2, 4, "++")
    assert (rewards, end.terminated) == ([0, 1], True)
    rewards, end = walk(0, 3, "-")
    assert (rewards, end.done, end.state.current) == ([-1], False, 0)
    rewards, end = walk(0, 5, "-+" * 5)
    assert (rewards, end.truncated, end.terminated) == ([-1, 0] * 5, True, False)
    rewards, end = walk(0, 5, "-+-+--+++++"[:6] + "++++")
    assert (rewards[-1], end.terminated, end.truncated) == (0, False, True)
    rewards, end = walk(4, 0, "----")
    assert (rewards, end.terminated) == ([0, 0, 0, 1], True)


def test_blackjack_table():
    def hand(tokens, **options):
        return play(BLACKJACK, options, tokens)

    rewards, end = hand(["stand"], player=[10, 10], dealer=[10, 7])
    assert (rewards, end.terminated) == ([1], True)
    rewards, end = hand(["hit"], player=[10, 6], draws=[10])
    assert (rewards, end.terminated) == ([-1], True)
    rewards, end = hand(["hit"], player=["A", 6], draws=[10])
    assert (rewards, end.done, end.state.total) == ([0], False, 17)
    assert total([1, 6]) == 17
    assert total([1, 1]) == 12
    assert total([1, 1, 10, 9]) == 21
    assert hand(["stand"], player=[10, 7], dealer=[10, 7])[0] == [0]
    assert hand(["stand"], player=[10, 7], dealer=[10, 6], draws=[10])[0] == [1], "a bust dealer loses"
    assert hand(["stand"], player=[10, 7], dealer=["A", 6], draws=[4])[0] == [0], "the dealer stands on a soft 17"
    assert hand(["stand"], player=[10, 8], dealer=[2, 2], draws=["A", 2])[0] == [1]
    assert hand(["stand"], player=["A", "K"], dealer=[10, "A"])[0] == [0], "no bonus for naturals"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("points24", {"numbers": [1, 2, 3]}),
        ("points24", {"numbers": [0, 2, 3, 4]}),
        ("ezpoints", {"numbers": ["x", 2]}),
        ("numberline", {"start": 2, "target": 2}),
        ("numberline", {"start": 0, "target": 6}),
        ("blackjack", {"player": [5]}),
        ("blackjack", {"dealer": [5, 5, 5]}),
    ],
)
def test_impossible_deals_are_refused(name, options):
    with pytest.raises(ValueError, match=r"give|dealt|no card"):
        GAMES[name].deal(np.random.default_rng(0), options)


def test_forced_deals_by_rank_and_by_value():
    rng = np.random.default_rng(0)
    state = POINTS24.deal(rng, {"numbers": ["K", 11, "A", 10]})
    assert [card.rank for card in state.cards] == ["K", "J", "A", "T"]
    assert state.numbers == (10, 10, 1, 10)
    assert game("points24", face_as_ten=False).deal(rng, {"numbers": [13, 11, 1, 10]}).numbers == (13, 11, 1, 10)
    assert len(game("points24", face_as_ten=False).tokens) == 20
    assert len(POINTS24.tokens) == 17
    assert EZPOINTS.tokens == (*map(str, range(1, 11)), "+", "*", "=")
    assert {card.rank for card in BLACKJACK.deal(rng, {"player": [10] * 9}).player} <= set("JQK")


# ---- distributions and exact counts


def test_deals_follow_the_stated_distributions():
    rng, n = np.random.default_rng(3), 20_000
    ranks = Counter(card.rank for _ in range(n // 4) for card in POINTS24.deal(rng).cards)
    assert set(ranks) == set(RANKS)
    assert all(abs(count / n - 1 / 13) < 0.01 for count in ranks.values())
    deals = [NUMBERLINE.deal(rng) for _ in range(n)]
    targets = Counter(deal.target for deal in deals)
    assert all(abs(targets[i] / n - share / 36) < 0.012 for i, share in enumerate((6, 7, 6, 6, 6, 5)))
    assert abs(np.mean([abs(deal.target - deal.current) for deal in deals]) - 2.278) < 0.04
    pairs = Counter(tuple(sorted(EZPOINTS.deal(rng).numbers)) for _ in range(n))
    # 12 first ranks; those of 2, 3, 4, 6 multiply half the time.
    expected = {(2, 6): 1, (2, 10): 4.5, (3, 4): 1, (3, 9): 1.5, (4, 8): 1.5, (5, 7): 2, (6, 6): 0.5}
    assert set(pairs) == set(expected)
    assert all(abs(pairs[pair] / n - share / 12) < 0.015 for pair, share in expected.items())
    values = Counter(card.value for _ in range(n // 4) for card in BLACKJACK.deal(rng).player)
    assert abs(values[10] / (n / 2) - 4 / 13) < 0.02


def test_three_in_four_deals_can_be_solved():
    assert sum(solvable(numbers) for numbers in MULTISETS) == 566
    deals = Counter(tuple(sorted(min(rank, 10) for rank in ranks)) for ranks in itertools.product(range(1, 14), repeat=4))
    assert sum(deals.values()) == 28561
    n_solvable = sum(count for numbers, count in deals.items() if solvable(numbers))
    assert n_solvable == 20876
    assert round(n_solvable / 28561, 3) == 0.731


def test_the_formulas_find_every_solvable_deal_and_rounding_loses_one():
    for numbers in MULTISETS:
        assert bool(formulas(numbers)) == solvable(numbers), numbers
    found = {numbers: formulas(numbers) for numbers in MULTISETS if formulas(numbers)}
    lost = [numbers for numbers, all_of in found.items() if not any(equals(tokens, 24, exact=False) for tokens in all_of)]
    assert lost == [(3, 3, 8, 8)]
    assert formulas((3, 3, 8, 8), exact=False) == ()
    assert 0 < len(formulas((1, 4, 5, 6), exact=False)) < len(formulas((1, 4, 5, 6)))


@pytest.mark.parametrize("numbers", [(1, 1, 4, 6), (1, 4, 5, 6), (3, 3, 8, 8), (2, 3, 7, 9)])
def test_every_formula_uses_the_numbers_and_reaches_the_target(numbers):
    found = formulas(numbers)
    assert len(set(found)) == len(found) > 0
    for tokens in found:
        assert sorted(int(token) for token in tokens if token.isdecimal()) == sorted(numbers)
        assert exact_value(tokens) == 24


def test_best_blackjack_is_what_dynamic_programming_says():
    found = bounds()
    expected = {"best_return": -0.0466, "best_return_wins": 0.4295, "best_wins": 0.4316}
    assert {key: round(found[key], 4) for key in expected} == expected
    rest = {"stand_return": -0.186, "stand_wins": 0.381, "random_return": -0.396, "random_wins": 0.281}
    assert {key: round(found[key], 3) for key in rest} == rest


def test_random_play_on_the_number_line_succeeds_as_computed():
    def success(state, reward):
        """Probability that a random policy ends with a positive sum."""
        share = 0.0
        for token in NUMBERLINE.tokens:
            outcome = NUMBERLINE.step(state, token, np.random.default_rng(0))
            after = reward + outcome.reward
            share += 0.5 * ((after > 0) if outcome.done else 0.0 if after < 0 else success(outcome.state, after))
        return share

    starts = [(s, t if s != t else (t + 1) % 5) for s in range(6) for t in range(6)]
    deal = NUMBERLINE.deal
    chances = [success(deal(np.random.default_rng(0), {"start": s, "target": t}), 0.0) for s, t in starts]
    assert round(np.mean(chances), 4) == 0.2830


@pytest.mark.parametrize("name", GAMES)
def test_best_play_wins_whatever_can_be_won(name):
    played = GAMES[name]
    returns = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        state, got, done = played.deal(rng), 0.0, False
        while not done:
            token = played.best(state)
            assert token in played.tokens
            if played.good(state):
                assert token in played.good(state)
            outcome = played.step(state, token, rng)
            state, got, done = outcome.state, got + outcome.reward, outcome.done
        lost = name == "points24" and not POINTS24.solvable(state)
        assert name == "blackjack" or got == (-1 if lost else played.success_reward)
        returns.append(got)
    assert len(set(returns)) > 1 or name in ("ezpoints", "numberline")


# ---- advice


def test_good_tokens_keep_a_win_possible():
    state = POINTS24.deal(np.random.default_rng(0), {"numbers": [4, 6, 1, 1]})
    assert set(POINTS24.good(state)) == {"1", "4", "6", "("}
    rng = np.random.default_rng(0)
    for token in ["4", "*", "6", "*"]:
        state = POINTS24.step(state, token, rng).state
    assert set(POINTS24.good(state)) == {"1", "("}
    for token in ["1", "/", "1"]:
        state = POINTS24.step(state, token, rng).state
    assert POINTS24.good(state) == ("=",)
    lost = POINTS24.deal(rng, {"numbers": [1, 1, 1, 1]})
    assert POINTS24.good(lost) == ()
    assert POINTS24.answer(lost)["good"] == []


def test_the_hole_card_is_no_part_of_a_blackjack_answer_and_moves_no_advice():
    rng = np.random.default_rng(0)
    seen = {
        json.dumps([BLACKJACK.answer(state)["good"], [card[:1] for card in BLACKJACK.answer(state)["dealer_up"]]])
        for hole in RANKS
        for state in [BLACKJACK.deal(rng, {"player": ["K", 6], "dealer": [7, 6 if hole == "T" else hole]})]
    }
    assert len(seen) == 1
    state = BLACKJACK.deal(rng, {"player": ["K", 6], "dealer": [7, "Q"]})
    assert len(BLACKJACK.answer(state)["dealer_up"]) == 1
    assert BLACKJACK.good(state) == ("hit",)
    assert BLACKJACK.good(BLACKJACK.deal(rng, {"player": ["K", 6], "dealer": [6, "Q"]})) == ("stand",)


def test_unknown_games_and_options_are_refused():
    assert game("vlrl/Points24-v0") is not None
    with pytest.raises(ValueError, match="unknown game 'poker'"):
        game("poker")
    with pytest.raises(ValueError, match="face_as_ten"):
        game("ezpoints", face_as_ten=False)


def test_the_plan_is_a_shortest_right_formula_however_the_cards_lie():
    rules, rng = GAMES["points24"], np.random.default_rng(5)
    for _ in range(60):
        state = rules.deal(rng)
        plan = rules.plan(state)
        if plan is None:
            assert not rules.solvable(state)
            continue
        assert rules.reaches(plan)
        assert sorted(token for token in plan if token.isdecimal()) == sorted(map(str, state.numbers))
        assert len(plan) == min(map(len, rules.completions(state)))
        shuffled = [state.numbers[i] for i in rng.permutation(4)]
        assert rules.plan(rules.deal(rng, {"numbers": shuffled})) == plan
        while rules.best(state) != "=":
            state = rules.step(state, rules.best(state), rng).state
        assert state.formula == plan, "every best move keeps to the plan"
