"""The rules of the card games: transition tables, exact counts, best play, and what a reply says."""

import itertools
import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.cards import GAMES, completions, formulas, game, random_action, read_action, solvable, thought_fields, write_reply
from vlrl.cards.blackjack import bounds, total
from vlrl.cards.deck import RANKS, Card, stated_ranks_match
from vlrl.cards.formula import equals, evaluate, evaluate_as_python, read, read_token, value_of
from vlrl.cards.replies import key_position, last_object

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
        assert evaluate(tokens) == 24


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
    for seed in range(60):
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


# ---- formulas


def test_exact_reading():
    assert evaluate(["8", "/", "(", "3", "-", "8", "/", "3", ")"]) == 24
    assert evaluate(["1", "-", "2", "-", "3", "*", "4", "/", "6"]) == -3
    assert evaluate(["2", "/", "4"]) == Fraction(1, 2)
    assert evaluate(["(", "(", "4", ")", ")", " "]) == 4
    for broken in ("", "4 4", "4 +", "+ 4", "( 4", "4 )", "( )", "4 ( 4 )", "4 / ( 2 - 2 )", "4 * * 2", "4 / / 2", "4 ="):
        assert evaluate(broken.split()) is None, broken


NUMBER = st.integers(1, 10).map(str)
EXPRESSION = st.recursive(
    NUMBER.map(lambda n: [n]),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner, st.booleans()).map(
        lambda parts: ["(", *parts[0], parts[1], *parts[2], ")"] if parts[3] else [*parts[0], parts[1], *parts[2]]
    ),
    max_leaves=8,
)


@given(EXPRESSION)
def test_well_formed_formulas_have_pythons_value(tokens):
    try:
        expected = eval("".join(f"Fraction({token})" if token.isdecimal() else token for token in tokens))  # our own text
    except ZeroDivisionError:
        expected = None
    assert evaluate(tokens) == expected


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@given(st.lists(st.sampled_from((*POINTS24.tokens[:-1], " ")), max_size=21))
@settings(max_examples=300)
def test_pythons_arithmetic_without_eval_agrees_with_it(tokens):
    text = "".join(tokens)
    small = "**" not in text
    try:
        expected = eval(text, {"__builtins__": {}}) if small else None  # tokens of our vocabulary only
    except (SyntaxError, ArithmeticError, TypeError, ValueError):
        expected = None
    if small and not isinstance(expected, tuple):
        assert evaluate_as_python(tokens) == expected
    assert equals(tokens, 24, exact=True) == (evaluate(tokens) == 24)


def test_huge_powers_are_refused_quickly():
    assert evaluate_as_python(["10", "*", "*", "10", "*", "*", "10", "*", "*", "10"]) is None
    assert evaluate_as_python(["(", "1", "-", "2", ")", "*", "*", "(", "1", "/", "2", ")", "/", "/", "1"]) is None
    assert evaluate_as_python(["(", "1", "+", "1", ")", "*", "*", "4"]) == 16


# ---- completions against a plain search


def plainly_completable(prefix, left, target, room):
    """Token by token, without any cleverness."""
    reading = read(prefix)
    if reading is None or room < 0 or 2 * len(left) + len(reading) - 2 > room:
        return False
    if not left and value_of(reading) == target:
        return True
    tokens = {*left, *"+-*/", "(", ")"}
    for token in tokens:
        if read_token(reading, token) is None or (token == "(" and (len(left) < 2 or len(reading) > 3)):
            continue
        rest = list(left)
        if token in rest:
            rest.remove(token)
        if plainly_completable((*prefix, token), tuple(rest), target, room - 1):
            return True
    return False


@given(st.lists(st.integers(1, 10), min_size=4, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_completions_are_empty_exactly_where_a_plain_search_finds_none(numbers, data):
    left, prefix = [str(n) for n in numbers], []
    while len(left) > 1:
        choices = [token for token in (*dict.fromkeys(left), *"+-*/()") if read_token(read(prefix), token) is not None]
        choices = [token for token in choices if token != "(" or len(read(prefix)) < 3]
        token = data.draw(st.sampled_from(choices))
        prefix.append(token)
        if token in left:
            left.remove(token)
    found = completions(numbers, prefix)
    assert bool(found) == plainly_completable(tuple(prefix), tuple(left), 24, 20 - len(prefix))
    for tokens in found:
        assert list(tokens[: len(prefix)]) == prefix
        assert evaluate(tokens) == 24
        assert sorted(int(token) for token in tokens if token.isdecimal()) == sorted(numbers)
        assert len(tokens) <= 20


def test_completions_know_how_much_room_is_left():
    deep = ["("] * 6 + ["4", "*", "6"]
    assert completions((1, 1, 4, 6), deep)
    assert not completions((1, 1, 4, 6), ["("] * 7 + ["4", "*", "6"]), "seven brackets cannot be closed within 20 entries"
    blanks = [" "] * 13
    assert completions((1, 1, 4, 6), blanks)
    assert not completions((1, 1, 4, 6), [*blanks, " "])
    assert not completions((1, 1, 1, 1))
    assert not completions((1, 1, 4, 6), ["4", "4"])
    assert not completions((1, 1, 4, 6), ["7"])
    assert completions((3, 3, 8, 8))
    assert not completions((3, 3, 8, 8), exact=False)


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


# ---- replies


@pytest.mark.parametrize(
    ("text", "name", "strict", "compat"),
    [
        ('{"action": "10"}', "points24", "10", "10"),
        ('{"action": "1"}', "points24", "1", "1"),
        ('{"action": "10 + 4"}', "points24", None, None),
        ('{"action": "+", "cards": [4]}', "points24", "+", None),
        ('{"action": "Stand"}', "blackjack", "stand", "stand"),
        ('{"action": "stand", "note": "or hit"}', "blackjack", "stand", None),
        ("go up, so +", "numberline", None, "+"),
        ('{"action": "-1"}', "points24", None, None),
        ('{"action": "-1"}', "numberline", None, "-"),
        ('{"action": " + "}', "numberline", "+", "+"),
        ('{"action": 4}', "points24", None, "4"),
        ('{"action": "+"} {"action": "-"}', "numberline", "-", None),
        ('{"a": {"action": "+"}}', "numberline", None, "+"),
        ('{"action": "+", "action": "-"}', "numberline", None, None),
        ('I say {so} {"thoughts": "}{", "action": "+"} .', "numberline", "+", "+"),
        ('{"action": "+"', "numberline", None, "+"),
        ('[{"action": "+"}]', "numberline", "+", "+"),
    ],
)
def test_both_parsers(text, name, strict, compat):
    assert read_action(text, GAMES[name]) == strict
    assert read_action(text, GAMES[name], parser="compat") == compat


def test_actions_in_tags():
    def read_tags(text):
        return read_action(text, NUMBERLINE, layout="tags")

    assert read_tags("<think>up</think><answer>+</answer>") == "+"
    for text in ("+", "<think>up</think><answer>+", "<answer>+</answer><answer>-</answer>", "<think>+</think>", ""):
        assert read_tags(text) is None
    with pytest.raises(ValueError, match="parser='loose'"):
        read_action("", NUMBERLINE, parser="loose")


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.text(alphabet='{}[]":,\\ action+-410', max_size=120),
    st.sampled_from(["{" * 50_000, '{"a":' * 5_000, '{"action":"' * 1_500, "[" * 19_000, '{"a":"' + "\\" * 19_000]),
)


@given(HOSTILE)
@settings(max_examples=300, deadline=2000)
def test_no_text_makes_a_parser_raise(text):
    for played in GAMES.values():
        for parser, layout in (("strict", "json"), ("strict", "tags"), ("compat", "json")):
            assert read_action(text, played, parser=parser, layout=layout) in (*played.tokens, None)
        assert thought_fields(text, played) is None or '"' in text


def test_what_a_valid_thought_is():
    fields = {"cards": [4, 6, 1, 1], "formula": "4 *", "thoughts": "play 6"}
    text = write_reply(fields, "6")
    assert thought_fields(text, POINTS24) == fields
    assert read_action(text, POINTS24) == "6"
    assert thought_fields(text, POINTS24, ended=False) is None
    assert thought_fields(f"so: {text}", POINTS24) is None
    assert thought_fields(text.replace("formula", "current formula"), POINTS24) is None
    assert thought_fields('{"thoughts": "x"}', BLACKJACK) is None
    assert thought_fields('{"thoughts": "x", "action": "nonsense"}', BLACKJACK) == {"thoughts": "x"}
    assert "\n" not in text


def test_where_a_key_stands():
    text = 'so {"thoughts": "the \\"action\\": is", "x": {"action": 1} ,\n "action" : "+", "z": 0}'
    found, start = last_object(text)
    assert found["action"] == "+"
    assert text[key_position(text, start, "action") :].startswith('"action" : "+"')
    assert key_position(text, start, "missing") is None


def test_random_actions_repeat_and_cover_the_vocabulary():
    drawn = [random_action(POINTS24, 5, episode, step) for episode in range(20) for step in range(20)]
    assert drawn == [random_action(POINTS24, 5, episode, step) for episode in range(20) for step in range(20)]
    assert set(drawn) == set(POINTS24.tokens)


@pytest.mark.parametrize(
    ("stated", "right"),
    [
        (["K", "4", "A", "10"], True),
        (["10", 1, 4, "k"], True),
        ([10, 10, 4, 1], True),
        (["Q", "4", "A", "10"], False),
        (["K", "4", "A"], False),
        (["K", "4", "A", "9"], False),
        (["K", "4", "A", None], False),
        (["K", "10", "10", "A"], False),
        ([13, 4, 1, "T"], True),
    ],
)
def test_cards_are_recognised_by_rank_or_value(stated, right):
    assert stated_ranks_match(stated, [Card("H", "4"), Card("S", "T"), Card("D", "A"), Card("C", "K")]) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("my total is 17", True),
        ("total 17, the dealer shows 7", True),
        ("total is 16", False),
        ("seventeen", False),
        ("total 17? total 7", False),
    ],
)
def test_a_blackjack_thought_says_its_total(text, right):
    state = BLACKJACK.deal(np.random.default_rng(0), {"player": ["A", 6], "dealer": [7, 8]})
    assert BLACKJACK.recognised({"thoughts": text}, state) == right


def test_unknown_games_and_options_are_refused():
    assert game("vlrl/Points24-v0") is not None
    with pytest.raises(ValueError, match="unknown game 'poker'"):
        game("poker")
    with pytest.raises(ValueError, match="face_as_ten"):
        game("ezpoints", face_as_ten=False)
