"""What reward models pay: refinement, combination and options on numbers that can be checked by hand; no model is loaded."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from value_head_folders import head_folder

from vlrl.answers.steps import split_steps, step_ends
from vlrl.rewards import load_reward, score_rows
from vlrl.rewards.model_reward import combination_words, pays_steps
from vlrl.rewards.refinement import clipped, combined, deltas, progress, refined, returns, standardised
from vlrl.rewards.scoring import RewardError
from vlrl.schema import Reward, Sample

pytestmark = pytest.mark.quick
VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
SAMPLE = Sample("1", "qa", "How many?", "3")
STEPS = "Step 1: a.\nStep 2: b.\nStep 3: c."


def test_clip_and_delta_on_numbers():
    assert clipped([0.9, 0.5, 0.2], 0.5) == pytest.approx([0, 0, -0.3])
    assert deltas([0.9, 0.6, 0.2]) == pytest.approx([0.3, 0.6, 0])
    assert deltas([0.7]) == [0.0]
    assert refined([0.9, 0.2, 0.7], "clip+delta", 0.5) == pytest.approx([0.3, -0.3, 0])
    assert returns([1.0, 2.0, 4.0]) == [7, 6, 4]
    assert progress([0.5, 0.8, 0.6]) == pytest.approx([0, 0.3, -0.2])
    with pytest.raises(ValueError, match="refine=cut"):
        refined([1.0], "cut", 0.5)


@given(VALUES)
def test_after_delta_each_step_returns_its_own_value_and_the_last_nothing(values):
    assert returns(deltas(values)) == pytest.approx([*values[:-1], 0.0])


@given(VALUES, st.floats(0, 1), st.integers(0, 11), st.integers(1, 5))
def test_repeating_a_good_step_earns_nothing_once_refined(values, eta, place, n):
    """Unrefined, each repetition adds its value; clipped, a step at the threshold or above adds nothing."""
    place = min(place, len(values) - 1)
    longer = [*values[: place + 1], *[values[place]] * n, *values[place + 1 :]]
    assert sum(longer) == pytest.approx(sum(values) + n * values[place])
    most = max(0.0, values[0] - eta) if len(values) > 1 else 0.0
    paid = returns(refined(longer, "clip+delta", eta))
    assert max(paid) <= 1e-9
    assert most >= 0
    if values[place] >= eta:
        assert sum(clipped(longer, eta)) == pytest.approx(sum(clipped(values, eta)))


def test_combinations_on_numbers():
    assert combined([0.2, 0.6], "mean", 0) == pytest.approx(0.4)
    assert combined([0.2, 0.6], "wco", 0) == combined([0.2, 0.6], "min", 0) == 0.2
    assert combined([0.2, 0.6], "uwo", 0.5) == pytest.approx(0.4 - 0.5 * 0.04)
    assert standardised([1.0, 3.0]) == [-1, 1]
    assert standardised([2.0, 2.0]) == [0, 0]
    with pytest.raises(ValueError, match="combine=best"):
        combined([1.0], "best", 0)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(0, 3))
def test_a_model_that_dissents_never_raises_what_is_paid(members, coefficient):
    assert combined(members, "wco", 0) <= combined(members, "mean", 0) + 1e-9
    assert combined(members, "uwo", coefficient) <= combined(members, "mean", 0) + 1e-9


@given(st.text(alphabet="ab \n.\tStep 1:", max_size=60))
def test_ends_of_steps_cut_the_text_where_its_steps_end(text):
    ends = step_ends(text)
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert ["".join(one.split()) for one in pieces] == ["".join(one.split()) for one in split_steps(text).steps]
    assert ends[-1] == len(text)


def scores(spec, by_folder, texts, samples=None):
    """The scores of texts by models that give each the values that `by_folder` names by folder, in order."""
    asked = []

    def models(folder, solutions):
        asked.extend(solutions)
        return [list(by_folder[folder][i]) for i in range(len(solutions))]

    reward = load_reward(spec)
    held = Reward(reward.name, partial(reward.function, models=models), reward.low, reward.high, reward.needs)
    return score_rows(held, texts, samples or [SAMPLE] * len(texts), 0, None), asked


def test_a_completion_has_the_least_of_its_steps_unless_asked_otherwise(tmp_path):
    folder = head_folder(tmp_path / "a")
    values = {folder: [[0.9, 0.4, 0.8]]}
    for option, value in (("", 0.4), (",outcome=last", 0.8), (",outcome=mean", 0.7), (",outcome=product", 0.288)):
        (score,), asked = scores(f"rm:{folder}{option}", values, [STEPS])
        assert score.value == pytest.approx(value)
        assert score.credits == ()
        assert asked == [((), "How many?", ("Step 1: a.", "Step 2: b.", "Step 3: c."))]


def test_steps_are_paid_what_follows_from_them(tmp_path):
    folder = head_folder(tmp_path / "a")
    (score,), _ = scores(f"rm:{folder},credit=steps", {folder: [[0.5, 0.25, 1.0]]}, [STEPS])
    assert score.value == 1.75
    assert score.credits == ((10, 1.75), (21, 1.25), (len(STEPS), 1.0))
    (score,), _ = scores(f"rm:{folder},refine=clip+delta,eta=0.5", {folder: [[0.9, 0.25, 1.0]]}, [STEPS])
    assert [credit for _, credit in score.credits] == pytest.approx([0, -0.25, 0])
    assert score.value == pytest.approx(0)
    (score,), _ = scores(f"rm:{folder},progress_weight=2", {folder: [[0.5, 0.25, 1.0]]}, [STEPS])
    assert [credit for _, credit in score.credits] == [0, -0.5, 1.5]


def test_models_are_combined_by_step_or_by_completion(tmp_path):
    a, b = head_folder(tmp_path / "a"), head_folder(tmp_path / "b")
    values = {a: [[0.2, 0.8, 0.9]], b: [[0.6, 0.4, 0.9]]}
    for option, value in (("mean", 1.9 / 3), ("wco", 1.9 / 3), ("min", 1.5 / 3), ("uwo,coefficient=2", 1.9 / 3)):
        (score,), _ = scores(f"rm:{a}+{b},outcome=mean,combine={option}", values, [STEPS])
        assert score.value == pytest.approx(value), "both models have the same mean, and their least steps differ"
    (score,), _ = scores(f"rm:{a}+{b},combine=uwo,coefficient=2", values, [STEPS])
    assert score.value == pytest.approx((0.2 + 0.4) / 2 - 2 * 0.1**2)


def test_a_folder_with_a_plus_in_its_name_is_one_folder(tmp_path):
    folder = head_folder(tmp_path / "a+b")
    (score,), _ = scores(f"rm:{folder}", {folder: [[0.5]]}, ["c d"])
    assert score.value == 0.5


def test_scales_are_made_alike(tmp_path):
    folder = head_folder(tmp_path / "a", kind="preferences", mean=2.0, std=4.0)
    (score,), asked = scores(f"rm:{folder},normalise=trained", {folder: [[10.0]]}, [STEPS])
    assert score.value == 2
    assert len(asked[0][2]) == 1, "a model of preferences values the whole completion"
    other = Sample("2", "qa", "Which?", "3")
    found, _ = scores(
        f"rm:{folder},normalise=group", {folder: [[1.0], [3.0], [7.0], [7.0]]}, ["a"] * 4, [SAMPLE] * 2 + [other] * 2
    )
    assert [one.value for one in found] == [-1, 1, 0, 0]


def test_a_completion_that_says_nothing_has_the_lowest_value_and_tags_are_not_shown(tmp_path):
    folder = head_folder(tmp_path / "a")
    text = "<think>Step 1: a.\nStep 2: b.</think><answer>3</answer>"
    found, asked = scores(f"rm:{folder},outcome=mean", {folder: [[0.5, 0.7]]}, ["", text, " ...\n"])
    assert [one.value for one in found] == pytest.approx([0, 0.6, 0])
    assert asked == [((), "How many?", ("Step 1: a.", "Step 2: b.\n3"))]
    for how in ("clip", "clip+delta"):
        (score,), _ = scores(f"rm:{folder},refine={how}", {}, ["  "])
        assert score.value == -0.5, "less than a step that is good enough"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", None),
        (",refine=delta,credit=completion", "credit=completion pays a completion as a whole"),
        (",refine=delta,outcome=min", "drop outcome="),
        (",credit=steps,outcome=min", "drop outcome="),
        (",refine=delta,progress_weight=1", "both say what a step is paid"),
        (",eta=0.5", "eta= is the threshold of refine=clip"),
        (",refine=delta,eta=0.5", "eta= is the threshold of refine=clip"),
        (",coefficient=1", "combine=uwo"),
        (",combine=mean", "needs several models"),
        (",normalise=trained", "states no mean and std"),
        (",normalise=group,refine=clip", "normalise=group is for"),
        (",batch_size=0", "must be 1 or more"),
        (",refine=cut", "refine=cut must be none/clip/delta/clip\\+delta"),
        (",refin=clip", "did you mean 'refine'"),
    ],
)
def test_options_that_do_not_go_together(options, said, tmp_path):
    folder = head_folder(tmp_path / "a")
    if said is None:
        assert not pays_steps(load_reward(f"rm:{folder}{options}"))
        return
    with pytest.raises(ValueError, match=said) as caught:
        load_reward(f"rm:{folder}{options}")
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_reward_models(tmp_path):
    steps, whole = head_folder(tmp_path / "steps"), head_folder(tmp_path / "whole", kind="preferences")
    (tmp_path / "empty").mkdir()
    wide, many = head_folder(tmp_path / "wide", width=16), head_folder(tmp_path / "many", outputs=3)
    broken = tmp_path / "broken"
    head_folder(broken)
    (broken / "value_head.safetensors").write_bytes(b"x")
    for spec, said in (
        ("rm", "name the folder"),
        ("rm:", "name the folder"),
        (f"rm:{tmp_path}/missing", "no such folder"),
        (f"rm:{tmp_path}/empty", "so it is no reward model"),
        (f"rm:{wide}", "takes 16 numbers, the model beside it gives 8"),
        (f"rm:{many}", r"shape \[3, 8\]"),
        (f"rm:{broken}", "is damaged"),
        (f"rm:{steps}+{whole}", "name one kind"),
        (f"rm:{steps}+{steps}", "named twice"),
        (f"rm:{whole},refine=clip", "refine= needs values of steps"),
        (f"rm:{whole},outcome=last", "outcome= needs values of steps"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            load_reward(spec)
        assert "\n" not in str(caught.value)


def test_a_command_without_models_says_so(tmp_path):
    with pytest.raises(RewardError, match="its models are not loaded here"):
        score_rows(load_reward(f"rm:{head_folder(tmp_path / 'a')}"), ["a"], [SAMPLE], 0, None)


def test_the_banner_says_what_is_combined(tmp_path):
    a, b = head_folder(tmp_path / "a"), head_folder(tmp_path / "b")
    words = combination_words(load_reward(f"rm:{a}+{b},combine=uwo,coefficient=2,refine=clip+delta,eta=0.6"))
    assert "2 models combined by uwo, coefficient 2" in words
    assert "refined by clip+delta (eta 0.6)" in words
    assert "the min of its steps" in combination_words(load_reward(f"rm:{a}"))
