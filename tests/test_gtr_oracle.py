"""The oracle and checkpoint correctors, and the claims read from thoughts."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.envs.cards import GAMES, claims, game, read_action, thought_fields, write_reply
from vlrl.envs.cards.wording import BLACKJACK_THOUGHTS, NUMBERLINE_THOUGHTS, POINTS_THOUGHTS
from vlrl.gtr import CheckpointCorrector, Correction, OracleCorrector, SampleRequest, StepRequest
from vlrl.gtr.masks import thought_span
from vlrl.gtr.named_moves import correctors_move
from vlrl.tasks import TASKS

pytestmark = pytest.mark.quick

ORACLE, BLIND = OracleCorrector(), OracleCorrector(see_action=False)


def deal(name, options=None, tokens="", seed=0, **made):
    """A game and its state after these moves."""
    played, rng = game(name, **made), np.random.default_rng(seed)
    state = played.deal(rng, options)
    for token in tokens.split():
        state = played.step(state, token, rng).state
    return played, state


def points(thoughts, action, cards=("4", "6", "A", "A"), formula="4 *", **request):
    """The oracle's verdict on a Points24 reply, `4 *` played so far."""
    played, state = deal("points24", {"numbers": [4, 6, 1, 1]}, "4 *")
    cards = cards if isinstance(cards, str) else list(cards)
    text = write_reply({"cards": cards, "formula": formula, "thoughts": thoughts}, action)
    return ORACLE.correct(StepRequest(played, state, text, **request))


# ---- claims


@pytest.mark.parametrize(
    ("thought", "formula"),
    [
        ("4 * 6 * 1 * 1 makes 24, so next is 6", "4 * 6 * 1 * 1"),
        ("24 is (4+1-1)*6, hence 6", "( 4 + 1 - 1 ) * 6"),
        ("first 1+1+1+1, no: 4*6*1/1=24", "4 * 6 * 1 / 1"),
        ("4 × 6 ÷ 1 ÷ 1", "4 * 6 / 1 / 1"),
        ("4 * 6 = 24", "4 * 6"),
        ("I have 4 * so far", None),
        ("8 * ( 6 - 7 + 4 ) is 24; I have 8 * ( 6 - 7 + 4, next is )", "8 * ( 6 - 7 + 4 )"),
        ("4 * 6 * 1 * 1 gives 24; I have 4 * 6 * 1, so next is *", "4 * 6 * 1 * 1"),
        ("I have 4 * 6 * 1 * 1 = 24", "4 * 6 * 1 * 1"),
        ("the cards are 4 6 1 1", None),
        ("the cards are 4, 6, 1, 1 - good", None),
        ("", None),
    ],
)
def test_announced_formulas(thought, formula):
    found = claims.announced_formula(thought, 4)
    assert (found and " ".join(found)) == formula


@pytest.mark.parametrize(
    ("thought", "token"),
    [
        ("so next is 6", "6"),
        ("the next token is *", "*"),
        ("Next comes =", "="),
        ('I choose "(" now', "("),
        ("I play 10, then 4", "10"),
        ("next is 4; no, next is -.", "-"),
        ("4 * 6", None),
        ("next is 44", None),
        ("I pick the 6.", "6"),
    ],
)
def test_named_next_tokens(thought, token):
    assert claims.next_token(thought) == token


@pytest.mark.parametrize(
    ("thought", "named"),
    [("go up", "+"), ("not down but up", "+"), ("decrease it", "-"), ("so +", "+"), ("4 is above 2", None), ("update", None)],
)
def test_directions(thought, named):
    assert claims.direction(thought) == named


def test_decisions_and_the_dealers_card():
    assert claims.decision("I could hit but I stand") == "stand"
    assert claims.decision("a hitch") is None
    assert claims.dealer_value("the dealer shows a King, I") == 10
    assert claims.dealer_value("dealer has an ace") == 1
    assert claims.dealer_value("the dealer card is 7; I") == 7
    assert claims.dealer_value("dealer has 44") is None
    assert claims.dealer_value("no one") is None


# ---- the oracle


def test_a_right_thought_is_left_alone_and_its_formula_adopted():
    found = points("4 * 6 * 1 * 1 makes 24, so next is 6", "6")
    assert (found.status, found.text, found.target) == ("ok", None, "4 * 6 * 1 * 1")
    assert (found.tier, found.privileged, found.cached) == ("oracle", True, False)
    assert points("next is 1", "1").status == "ok", "no formula has to be announced"
    assert points("next is 6", "6", cards=("A", 1, 6, "4")).status == "ok", "ranks in any order, or values"


@pytest.mark.parametrize(
    ("thoughts", "action", "changes", "why"),
    [
        ("next is 6", "6", {"cards": ("4", "6", "A", "2")}, "the cards are"),
        ("next is 6", "6", {"cards": "4611"}, "the cards are"),
        ("next is 6", "6", {"formula": "4 +"}, "the formula is"),
        ("4 * 6 + 1 + 1 makes 24, so next is 6", "6", {}, "heading for"),
        ("4 * 6 = 24, so next is 6", "6", {}, "heading for"),
        ("6 * 4 * 1 * 1 makes 24, so next is 6", "6", {}, "heading for"),
        ("4 * 6 * 1 * 1 makes 24, so next is 1", "1", {}, "goes on"),
        ("hm", "6", {}, "no next token"),
        ("next is +", "6", {}, "not '+'"),
        ("next is =", "6", {}, "not '='"),
        ("next is 7", "6", {}, "not '7'"),
        ("next is 6", "+", {}, "the action '+'"),
        ("next is 6", "6 *", {}, "the action None"),
    ],
)
def test_a_wrong_thought_is_rewritten_with_the_policys_own_action(thoughts, action, changes, why):
    found = points(thoughts, action, **changes)
    assert found.status == "corrected"
    assert why in found.why
    reply = json.loads(found.text)
    assert reply["action"] == action
    assert list(reply) == ["cards", "formula", "thoughts", "action"], "the action comes last"
    assert (sorted(reply["cards"]), reply["formula"]) == (["4", "6", "A", "A"], "4 *")
    assert claims.next_token(reply["thoughts"]) in ("6", "1", "(")
    assert " ".join(claims.announced_formula(reply["thoughts"], 4)) == found.target


def test_actions_that_are_not_texts_are_kept_too():
    played, state = deal("numberline", {"start": 1, "target": 3})
    text = '{"current number": 1, "target number": 2, "thoughts": "go up", "action": {"deep": [1]}}'
    assert json.loads(ORACLE.correct(StepRequest(played, state, text)).text)["action"] == {"deep": [1]}


def test_the_target_is_kept_while_it_is_possible():
    kept = points("hm", "6", target="4 * ( 6 * 1 ) * 1")
    assert kept.target == "4 * ( 6 * 1 ) * 1"
    dropped = points("hm", "6", target="6 * 4 * 1 * 1")
    assert dropped.target.startswith("4 * ")
    both = points("4 * 6 * 1 / 1 makes 24, hm", "6", target="4 * 6 * 1 * 1")
    assert both.target == "4 * 6 * 1 * 1"
    announced = points("4 * 6 * 1 / 1 makes 24, hm", "6", target="6 * 4 * 1 * 1")
    assert announced.target == "4 * 6 * 1 / 1"
    assert {points("hm", "6", seed=seed).target for seed in range(12)} == {"4 * 1 * 1 * 6"}, "the game's plan, in every episode"


def test_a_lost_state_is_unsolvable_and_an_invalid_reply_is_not_judged():
    played, state = deal("points24", {"numbers": [1, 1, 1, 1]})
    text = write_reply({"cards": [1, 1, 1, 1], "formula": "", "thoughts": "next is 1"}, "1")
    assert ORACLE.correct(StepRequest(played, state, text)).status == "unsolvable"
    played, state = deal("points24", {"numbers": [4, 6, 1, 1]}, "4 +")
    lost = write_reply({"cards": [4, 6, 1, 1], "formula": "4 +", "thoughts": "next is 6"}, "6")
    assert ORACLE.correct(StepRequest(played, state, lost)).status == "unsolvable"
    for broken, ended in (("no JSON", True), (text, False), ('{"thoughts": "x", "action": "1"}', True)):
        found = ORACLE.correct(StepRequest(played, state, broken, ended))
        assert (found.status, found.text) == ("invalid", None)


INVALID = ["", "hm", '{"cards": [4', '{"thought": "4 next", "action": "4"}', '{"action": null}', '["x"]', "[" * 10_000]


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("solver", [True, False])
@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_reply_is_rewritten_as_a_right_one_where_that_is_asked(name, solver, text):
    willing = OracleCorrector(solver=solver, correct_invalid=True)
    played, state = deal(name, {"numbers": [4, 6, 1, 1]} if name == "points24" else None)
    for ended in (True, False):
        request = StepRequest(played, state, text, ended)
        assert OracleCorrector(solver=solver).correct(request).status == "invalid"
        found = willing.correct(request)
        assert (found.status, found.privileged) == ("corrected", True)
        assert thought_fields(found.text, played) is not None, "valid now"
        assert thought_span(found.text) is not None
        move = correctors_move(text, found, played)
        assert move in played.tokens
        assert not solver or move in played.good(state), "its thought names a right move"
    right = write_reply(thought_fields(found.text, played), move)
    assert willing.correct(StepRequest(played, state, right)).status == "ok", "a valid reply is judged as ever"


@pytest.mark.parametrize("name", GAMES)
def test_the_oracle_accepts_its_own_corrections_at_every_step(name):
    """Whole games by the best move: a poor thought is rewritten, the rewritten one is right, with every wording."""
    played, said = GAMES[name], set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        state, target, done = played.deal(rng), None, False
        while not done:
            move = played.best(state)
            poor = write_reply(dict.fromkeys(played.thought_keys, "?"), move)
            found = ORACLE.correct(StepRequest(played, state, poor, target=target, seed=seed))
            if found.status == "unsolvable":
                assert not played.good(state)
                break
            assert found.status == "corrected"
            fields = thought_fields(found.text, played)
            assert played.recognised(fields, state)
            said.add(len(fields["thoughts"].split()))
            again = StepRequest(played, state, found.text, target=found.target, seed=seed)
            assert BLIND.correct(again).status == "ok", fields
            if name in ("points24", "ezpoints"):
                target = found.target
                move = claims.next_token(fields["thoughts"])
            followed = write_reply(fields, move)
            assert ORACLE.correct(StepRequest(played, state, followed, target=target, seed=seed)).status == "ok", followed
            outcome = played.step(state, move, rng)
            state, done = outcome.state, outcome.done
        else:
            assert name == "blackjack" or outcome.reward == played.success_reward
    assert len(said) > 3


def test_there_are_eight_wordings_each_and_the_seed_picks_one():
    for wordings in (POINTS_THOUGHTS, NUMBERLINE_THOUGHTS, BLACKJACK_THOUGHTS):
        assert len(set(wordings)) >= 8
    played, state = deal("numberline", {"start": 1, "target": 3})
    poor = write_reply({"current number": 0, "target number": 0, "thoughts": ""}, "+")
    texts = [ORACLE.correct(StepRequest(played, state, poor, seed=seed)).text for seed in range(60)]
    assert len(set(texts)) == 8
    assert texts == [ORACLE.correct(StepRequest(played, state, poor, seed=seed)).text for seed in range(60)]


def test_numberline_and_blackjack_thoughts_are_judged_by_what_they_say():
    played, state = deal("numberline", {"start": 1, "target": 3})

    def verdict(thoughts, action="+", current=1, target=3, corrector=ORACLE):
        text = write_reply({"current number": current, "target number": target, "thoughts": thoughts}, action)
        return corrector.correct(StepRequest(played, state, text)).status

    assert verdict("go up") == verdict("go up", current="1") == "ok"
    for wrong in ({"current": 2}, {"target": "x"}, {"action": "-"}, {"thoughts": "go down"}, {"thoughts": "hm"}):
        assert verdict(**{"thoughts": "go up", **wrong}) == "corrected"
    assert verdict("go up", action="-", corrector=BLIND) == "ok"
    played, state = deal("blackjack", {"player": [10, 6], "dealer": [7, 10]})

    def said(thoughts, action="hit"):
        return ORACLE.correct(StepRequest(played, state, write_reply({"thoughts": thoughts}, action))).status

    assert said("my total is 16 and the dealer shows 7: hit") == said("total 16, so hit") == "ok"
    for wrong in ("total is 15: hit", "I hit", "total is 16, dealer shows 8: hit", "total is 16: stand", "total is 16"):
        assert said(wrong) == "corrected"


def test_the_hole_card_changes_no_verdict():
    for thoughts in ("total is 16: hit", "total is 16: stand", "?"):
        texts = set()
        for hole in range(1, 14):
            played, state = deal("blackjack", {"player": [9, 7], "dealer": [7, hole]})
            found = ORACLE.correct(StepRequest(played, state, write_reply({"thoughts": thoughts}, "hit")))
            texts.add((found.status, found.text, found.why))
        assert len(texts) == 1


def test_published_arithmetic_has_its_own_right_moves():
    played, state = deal("points24", {"numbers": [1, 1, 2, 2]}, "1 2 * 2 * 1", exact=False)
    fields = {"cards": [1, 1, 2, 2], "formula": "1 2 * 2 * 1", "thoughts": "next is ="}
    assert ORACLE.correct(StepRequest(played, state, write_reply(fields, "="))).status == "ok"
    found = ORACLE.correct(StepRequest(played, state, write_reply({**fields, "thoughts": "hm"}, "=")))
    assert found.status == "corrected"
    exact = game("points24")
    assert ORACLE.correct(StepRequest(exact, state, write_reply(fields, "="))).status == "unsolvable"


@given(st.text(max_size=80), st.sampled_from(list(GAMES)))
def test_no_thought_makes_the_oracle_raise(text, name):
    played, state = deal(name, seed=1)
    fields = dict.fromkeys(played.thought_keys, text)
    for completion in (text, write_reply(fields, text)):
        assert ORACLE.correct(StepRequest(played, state, completion)).status in ("ok", "corrected", "unsolvable", "invalid")


def test_a_verdict_with_text_is_a_correction_and_no_other_is():
    with pytest.raises(ValueError, match="status 'ok'"):
        Correction("ok", text="x")
    with pytest.raises(ValueError, match="status 'corrected'"):
        Correction("corrected")
    with pytest.raises(ValueError, match="status 'fine'"):
        Correction("fine")


# ---- single-turn samples


@pytest.mark.parametrize("name", TASKS)
def test_the_oracle_gives_a_task_its_true_thought_and_never_its_answer(name):
    task = TASKS[name]
    for index in range(5):
        sample = task.synthetic(0, "train", index)
        wrong = "<think>nothing is there, I guess</think><answer>my own answer</answer>"
        found = ORACLE.correct(SampleRequest(task, sample, wrong, is_right=False))
        assert found.status == "corrected"
        assert found.text.endswith("</think><answer>my own answer</answer>")
        right = task.oracle(sample)
        assert found.text.split("</think>")[0] == right.split("</think>")[0]
        assert found.privileged
        assert ORACLE.correct(SampleRequest(task, sample, right, is_right=True)).status == "ok"
        assert ORACLE.correct(SampleRequest(task, sample, found.text, is_right=False)).status == "ok", "nothing to rewrite"
        willing = OracleCorrector(correct_invalid=True)
        for broken, ended in (("my own answer", True), ("<think>a</think><think>b</think>", True), (wrong, False)):
            request = SampleRequest(task, sample, broken, is_right=not ended, ended=ended)
            assert ORACLE.correct(request).status == "invalid"
            assert willing.correct(request).text == right, "its thought is imitated, whatever comes behind it is masked"
        assert willing.correct(SampleRequest(task, sample, wrong, is_right=False)).text == found.text


# ---- an earlier checkpoint


def test_a_checkpoints_thought_is_taken_with_the_policys_action():
    played, state = deal("numberline", {"start": 1, "target": 3})
    own = write_reply({"current number": 9, "target number": 9, "thoughts": "hm"}, "-")
    good = write_reply({"current number": 1, "target number": 3, "thoughts": "go up"}, "+")
    bad = write_reply({"current number": 1, "target number": 3, "thoughts": "go down"}, "-")

    def verdict(written, check=None, completion=own, ended=True):
        asked = []
        corrector = CheckpointCorrector("old", lambda requests: asked.extend(requests) or [written] * len(requests), check)
        request = StepRequest(played, state, completion, ended)
        found = corrector.correct(request)
        assert asked == [request]
        assert found.tier == "checkpoint:old"
        return found

    found = verdict(good)
    assert json.loads(found.text) == {**json.loads(good), "action": "-"}
    assert not found.privileged
    assert verdict(own).status == "ok"
    assert verdict("broken").status == verdict(bad, ORACLE).status == "failed"
    assert verdict(good, ORACLE).privileged
    assert verdict(good, completion="broken").status == verdict(good, ended=False).status == "invalid"
    sample = TASKS["qa"].synthetic(0, "train", 0)
    corrector = CheckpointCorrector("old", lambda requests: ["<think>new</think><answer>x</answer>"])
    found = corrector.correct(SampleRequest(TASKS["qa"], sample, "<think>old</think><answer>y</answer>", is_right=False))
    assert found.text == "<think>new</think><answer>y</answer>"


def test_a_checkpoint_rewrites_an_invalid_reply_where_that_is_asked():
    played, state = deal("numberline", {"start": 1, "target": 3})
    good = write_reply({"current number": 1, "target number": 3, "thoughts": "go up"}, "+")
    sample, tagged = TASKS["qa"].synthetic(0, "train", 0), "<think>new</think><answer>x</answer>"
    for written, status in ((good, "corrected"), ("broken", "failed"), (tagged, "failed")):
        corrector = CheckpointCorrector("old", lambda requests, text=written: [text], correct_invalid=True)
        for completion, ended in (("hm", True), (good, False)):
            found = corrector.correct(StepRequest(played, state, completion, ended))
            assert (found.status, found.text) == (status, good if status == "corrected" else None)
        found = corrector.correct(SampleRequest(TASKS["qa"], sample, "hm", is_right=False))
        assert found.text == (tagged if written == tagged else None)


def test_without_the_solver_cards_are_known_but_not_what_is_right():
    """Its thoughts state the picture and head for a formula of the cards that goes on from what stands there."""
    corrector, rules, right = OracleCorrector(solver=False), game("points24"), 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        state = rules.deal(rng)
        for token in [str(state.numbers[0]), "+"][: seed % 3]:
            state = rules.step(state, token, rng).state
        request = StepRequest(rules, state, write_reply({**rules.shown(state), "thoughts": "no idea"}, "="), seed=seed)
        found = corrector.correct(request)
        assert found.status == "corrected"
        fields = thought_fields(found.text, rules)
        assert rules.recognised(fields, state)
        assert read_action(found.text, rules) == "=", "the own action is kept"
        formula = found.target.split()
        assert formula[: len(state.formula)] == list(state.formula)
        assert sorted(t for t in formula if t.isdecimal()) == sorted(map(str, state.numbers))
        right += rules.reaches(tuple(formula))
        again = corrector.correct(StepRequest(rules, state, found.text, seed=seed))
        assert again.status == "ok", "it accepts its own corrections"
    assert right < 15, "it does not know what makes 24"
