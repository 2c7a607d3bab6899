"""What a policy's reply says: actions, valid thoughts, recognised cards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.envs.cards import GAMES, random_action, read_action, thought_fields, write_reply
from vlrl.envs.cards.deck import Card, stated_ranks_match
from vlrl.envs.cards.replies import key_position, last_object
from vlrl.envs.cards.transcripts import Playthrough, Turn

POINTS24, NUMBERLINE, BLACKJACK = (GAMES[name] for name in ("points24", "numberline", "blackjack"))


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
        ('{"action": "+", "action": "-", "x": {"action": "+"}}', "numberline", None, None),
        ('{"action": "+"} {"action": "-", "action": "-"}', "numberline", None, None),
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
def test_no_text_makes_a_parser_raise(text):
    for played in GAMES.values():
        for parser, layout in (("strict", "json"), ("strict", "tags"), ("compat", "json")):
            assert read_action(text, played, parser=parser, layout=layout) in (*played.tokens, None)
        assert thought_fields(text, played) is None or '"' in text


HUGE = "9" * 4301
DEEP = "[" * 300 + "]" * 300


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (f'{{"action": {HUGE}}}', None),
        (f'{{"thoughts": "x", "current": {HUGE}, "target": 1e400, "action": "+"}}', "+"),
        (f'{{"thoughts": {DEEP}, "current": 1, "target": 4, "action": "+"}}', None),
        (f'"{{"thoughts": {DEEP}, "current": 1, "target": 4, "action": "+"}}', None),
        ('{"thoughts": [[["x"]]], "current": NaN, "target": -0, "action": "+"}', "+"),
        ('{"thoughts": "\\ud800 \u2028 \x7f", "current": 1, "target": 4, "action": "+"}', "+"),
        ('{"thoughts": "total is ' + HUGE + ' so hit", "current": 1, "target": 4, "action": "+"}', "+"),
        ('{"thoughts": "' + HUGE + " * 4 = " + HUGE + '", "cards": [' + HUGE + '], "formula": "", "action": "+"}', "+"),
    ],
)
def test_huge_numbers_and_deep_brackets_are_data(text, action):
    assert read_action(text, NUMBERLINE) == action
    for played in GAMES.values():
        play = Playthrough(played, 3)
        play.step(Turn(text))
        fields = thought_fields(text, played)
        if fields is not None:
            assert isinstance(played.recognised(fields, play.state), bool)
            if "thoughts" in fields:
                played.problem(play.state, fields)
            assert write_reply(fields, "+")


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
    ("name", "low", "high"), [("numberline", 0.26, 0.31), ("blackjack", 0.255, 0.305), ("ezpoints", 0, 0.01)]
)
def test_random_play_wins_as_often_as_computed(name, low, high):
    """0.283 on the number line, 0.281 in blackjack: the actions do not follow from the deal's own draws."""
    won = 0
    for seed in range(4000):
        play = Playthrough(GAMES[name], seed)
        while not play.done:
            play.step(Turn(""))
        won += sum(one.reward for one in play.played) > 0
    assert low <= won / 4000 <= high


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
