"""`clip`: the formula on numbers that can be checked by hand, what a completion marks, and what is refused; no model is loaded."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
from clip_folders import END, folder_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlrl.data.image_views import ImageView, cut_out
from vlrl.data.synthetic.shapes import detection_sample, grounding_sample
from vlrl.envs.cards import GAMES
from vlrl.envs.cards.deals import episode_sample, state_sample
from vlrl.envs.cards.transcripts import Turn, write_transcript
from vlrl.rewards import load_reward, score_rows
from vlrl.rewards.image_text import MOST_BOXES, agreement_words, goal_baseline_reward
from vlrl.rewards.scoring import RewardError
from vlrl.schema import Sample
from vlrl.tasks import TASKS
from vlrl.tasks.games import GAME_TASKS
from vlrl.tasks.rubric import choose

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("clip") / "model")


def unit(*values):
    found = np.array(values, float)
    return found / np.linalg.norm(found)


# ---- the formula


def test_the_formula_by_hand():
    s, g, b = unit(0, 1), unit(1, 0), unit(-1, 0)
    for alpha, value in ((0, 0), (0.5, 1 - (1 + 0.25) / 2), (1, 0.5)):
        assert goal_baseline_reward(s, g, b, alpha) == pytest.approx(value), "the line is the first axis, s falls on 0"
    s, g, b = unit(0, 0, 1), unit(1, 0, 0), unit(0, 1, 0)
    assert goal_baseline_reward(s, g, b, 1) == pytest.approx(1 - 0.5 / 2), "s falls on (1/2, 1/2, 0)"
    assert goal_baseline_reward(s, g, b, 0.5) == pytest.approx(1 - (0.75**2 + 0.25**2 + 0.5**2) / 2)
    assert goal_baseline_reward(b, g, b, 1) == pytest.approx(1 - 2 / 2), "the baseline itself is as far as it is from the goal"
    assert goal_baseline_reward(g, g, b, 0.7) == 1
    assert goal_baseline_reward(unit(3, 4), unit(1, 0), None, 0.5) == pytest.approx(0.6)


VECTORS = (
    st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda v: sum(x * x for x in v) > 1e-3).map(lambda v: unit(*v))
)


@given(VECTORS, VECTORS, VECTORS, st.floats(0, 1), st.floats(0, 1))
def test_the_formula_stays_in_range_and_a_larger_share_never_lowers_it(s, g, b, one, other):
    if np.abs(g - b).max() < 1e-3:
        return
    low, high = (goal_baseline_reward(s, g, b, alpha) for alpha in sorted((one, other)))
    assert -1 - 1e-9 <= low <= high + 2e-5
    assert high <= 1
    assert goal_baseline_reward(s, g, b, 0) == pytest.approx(s @ g, abs=1e-5), "the cosine"


def test_a_baseline_with_the_embedding_of_the_goal_is_refused():
    with pytest.raises(ValueError, match="the same embedding"):
        goal_baseline_reward(unit(0, 1), unit(1, 0), unit(1, 0), 0.5)


# ---- what is marked


def scores(spec, texts, samples, cosine=lambda view, text: 0.5):
    """Scores by a model to which view and text have this cosine, and what it was shown."""
    asked = []

    def models(views, words):
        asked.append((list(views), list(words)))
        place = {word: i for i, word in enumerate(words)}
        texts_ME = np.eye(len(words) + 1)[: len(words)]
        cosines = np.array([[cosine(view, word) for word in place] for view in views])
        rest = np.sqrt(np.maximum(0, 1 - (cosines**2).sum(1, keepdims=True)))
        return np.hstack([cosines, rest]), texts_ME

    reward = load_reward(spec)
    held = dataclasses.replace(reward, function=partial(reward.function, models=models))
    return score_rows(held, texts, samples, 0, None), asked


def image_file(path, size, mode="RGB"):
    Image.new(mode, size, 0).save(path)
    return str(path)


def row(path, question="the red cup", answer=None, **meta):
    return Sample("1", "grounding", question, answer or {"bbox_2d": [0, 0, 5, 5]}, (path,), meta=meta)


def test_boxes_are_cut_out_and_points_get_a_square(tmp_path, folder):
    sample = row(image_file(tmp_path / "a.png", (200, 100)))
    texts = ['{"bbox_2d": [10, 20, 60.4, 40]}', '{"point_2d": [50, 50]}', "[199, 1]", "nothing to see", "[250, 50]"]
    found, [(views, words)] = scores(f"clip:{folder},crop=0.2", texts, [sample] * 5)
    assert [view.box_px for view in views] == [(10, 20, 61, 40), (40, 40, 60, 60), (189, 0, 200, 11)]
    assert words == ["the red cup"]
    assert [one.value for one in found] == [0.5, 0.5, 0.5, -1, -1]
    assert [one.answer is None for one in found] == [False, False, False, True, True]
    assert found[4].why == "the point is outside of the image"
    assert "0.500 with 'the red cup'" in found[0].why


def test_what_counts_as_a_mark_can_be_set(tmp_path, folder):
    sample, texts = row(image_file(tmp_path / "a.png", (100, 100))), ['{"bbox_2d": [10, 10, 30, 30]}', "[20, 20]"]
    found, [(views, _)] = scores(f"clip:{folder},mark=point,crop=0.1", texts, [sample] * 2)
    assert [view.box_px for view in views] == [(15, 15, 25, 25)], "the middle of the box is that point"
    assert [one.value for one in found] == [0.5, 0.5]
    found, [(views, _)] = scores(f"clip:{folder},mark=box", texts, [sample] * 2)
    assert [one.value for one in found] == [0.5, -1]


def test_goal_and_baseline_hold_what_the_row_asks_for(tmp_path, folder):
    sample = row(image_file(tmp_path / "a.png", (100, 100)))
    spec = f"clip:{folder},goal=a photo of {{}},baseline=an object,alpha=1"
    (score,), [(_, words)] = scores(spec, ["[1, 1]"], [sample], lambda view, text: 0.0)
    assert words == ["a photo of the red cup", "an object"]
    assert score.value == 0.75, "at right angles to both, as in the formula by hand"


def test_of_several_boxes_the_mean_counts_and_what_is_wrong_costs(tmp_path, folder):
    path = image_file(tmp_path / "a.png", (100, 100))
    answer = [{"bbox_2d": [0, 0, 9, 9], "label": "Dog"}, {"bbox_2d": [20, 0, 29, 9], "label": "cat"}]
    sample = Sample("1", "detection", "Dog, cat", answer, (path,), meta={"categories": ["Dog", "cat"]})

    def boxes(*items):
        return json.dumps([{"bbox_2d": list(box), "label": label} for box, label in items])

    dog, cat, mouse = ((1, 1, 8, 8), "dog"), ((20, 1, 28, 8), "cat"), ((40, 1, 48, 8), "mouse")
    texts = [boxes(dog), boxes(dog, dog, cat), boxes(dog, mouse), boxes(dog, ((200, 200, 220, 220), "dog")), boxes(), "?"]
    cosine = {"Dog": 0.8, "cat": 0.2}
    found, [(views, words)] = scores(f"clip:{folder}", texts, [sample] * 6, lambda view, text: cosine[text])
    assert sorted(words) == ["Dog", "cat"], "in the row's spelling"
    assert len(views) == 2
    assert [one.value for one in found] == pytest.approx([0.8, 0.5, -0.1, -0.1, -1, -1])
    many = boxes(*[((i, 1, i + 5, 8), "dog") for i in range(MOST_BOXES + 1)])
    assert scores(f"clip:{folder}", [many], [sample])[0][0].value == -1
    assert scores(f"clip:{folder}", [boxes(dog)], [dataclasses.replace(sample, answer=[])])[0][0].value is None


def test_a_card_game_shows_the_frame_after_the_move(folder):
    rules = GAMES["numberline"]
    deals = [rules.deal(np.random.default_rng(seed)) for seed in range(50)]
    seed = next(i for i, deal in enumerate(deals) if deal.target - deal.current >= 3)
    episode = episode_sample("e", "numberline", rules, seed)
    state = state_sample(episode, ("+",), good=False)
    spec = f"clip:{folder},goal=two equal numbers"
    found, [(views, words)] = scores(spec, ['{"action": "+"}', '{"action": "-"}', "up"], [state] * 3)
    assert [view.state.current - deals[seed].current for view in views] == [2, 0]
    assert [one.value for one in found] == [0.5, 0.5, -1]
    assert words == ["two equal numbers"]
    text = write_transcript([Turn('{"action": "+"}'), Turn('{"action": "-"}')])
    (score, bad), [(views, _)] = scores(spec, [text, "+"], [episode] * 2)
    assert (score.value, score.answer, bad.value) == (0.5, ["+", "-"], -1)
    assert (views[0].state.current, views[0].state.step) == (deals[seed].current, 2)
    with pytest.raises(RewardError, match=r"nothing that could stand for \{\}; give goal=TEXT"):
        scores(f"clip:{folder}", ["+"], [state])


@pytest.mark.parametrize("name", GAMES)
def test_a_move_that_ends_a_game_has_a_frame_too(name, folder):
    sample = episode_sample("e", name, GAMES[name], 5)
    turns = json.loads(GAME_TASKS[name].oracle(sample))
    last = write_transcript([Turn(one["reply"]) for one in turns])
    (whole,), [(views, _)] = scores(f"clip:{folder},goal=a win", [last], [sample])
    played = tuple(whole.answer)
    before = state_sample(sample, played[:-1], good=False)
    (score,), [(own, _)] = scores(f"clip:{folder},goal=a win", [turns[-1]["reply"]], [before])
    assert own == views, "one move from the state before ends where the episode ends"
    assert score.value == 0.5


def test_a_view_is_a_square_that_cuts_nothing_off():
    image = Image.fromarray(np.arange(40 * 100 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 100, 3))
    square = cut_out(ImageView("a", (10.0, 5.0, 70.0, 25.0)), image, (1, 2, 3))
    assert square.size == (60, 60)
    assert np.array_equal(np.asarray(square)[20:40], np.asarray(image)[5:25, 10:70])
    assert square.getpixel((0, 0)) == (1, 2, 3)


def test_rows_of_another_kind_are_not_scored(folder):
    found, asked = scores(f"clip:{folder}", ["3"], [Sample("1", "qa", "How many?", "3")])
    assert found[0].value is None
    assert asked == []


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (",alpha=0.5", "add one or drop alpha="),
        (",baseline=an object,alpha=0", "0 is the plain cosine"),
        (",baseline=an object,alpha=1.5", "must be above 0 and at most 1"),
        (",baseline=", "baseline= is empty"),
        (",goal=A  Cup,baseline=a cup", "the same text"),
        (",baseline={}", "the same text"),
        (",goal=", "goal='' cannot be read whole: it is empty"),
        (f",goal={'x' * 80}", "it has 82 tokens and"),
        (f",baseline={'x' * 80}", "baseline='x"),
        (f",goal=a {END} b", r"spells out <\|endoftext\|>"),
        (",crop=0", "must be above 0 and at most 1, a share"),
        (",crop=0.2,mark=box", "mark=box takes no points"),
        (",mark=spot", "mark=spot must be any/box/point"),
        (",batch_size=0", "must be 1 or more"),
        (",base_line=x", "did you mean 'baseline'"),
        (",goal=a cup, red", "there is no option 'red'"),
    ],
)
def test_options_that_cannot_work(options, said, folder):
    with pytest.raises(ValueError, match=said) as caught:
        load_reward(f"clip:{folder}{options}")
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_clip_model(tmp_path):
    (tmp_path / "empty").mkdir()
    siglip, half = (
        folder_of(tmp_path / "siglip", model_type="siglip"),
        folder_of(tmp_path / "half", model_type="clip_text_model"),
    )
    short, lost = folder_of(tmp_path / "short", text_config={"max_position_embeddings": "x"}), folder_of(tmp_path / "lost")
    bad, bare, parts = (folder_of(tmp_path / name) for name in ("bad", "bare", "parts"))
    (tmp_path / "lost" / "model.safetensors").unlink()
    (tmp_path / "bad" / "tokenizer.json").write_text("{")
    (tmp_path / "bare" / "processor_config.json").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "parts" / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "parts" / "model-1.safetensors").write_bytes(b"")
    for spec, said in (
        ("clip", "name the folder of a CLIP model"),
        ("clip:,goal=x", "name the folder of a CLIP model"),
        (f"clip:{tmp_path}/missing", "no such folder"),
        (f"clip:{tmp_path}/empty", "holds no config.json, so it is no CLIP model"),
        (f"clip:{siglip}", "its model_type is 'siglip'"),
        (f"clip:{half}", "its model_type is 'clip_text_model'"),
        (f"clip:{short}", "max_position_embeddings is 'x'"),
        (f"clip:{lost}", "holds no model.safetensors"),
        (f"clip:{bad}", "tokenizer.json cannot be read"),
        (f"clip:{bare}", "holds no processor_config.json"),
        (f"clip:{parts}", "holds no model-2.safetensors"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            load_reward(spec)
        assert "\n" not in str(caught.value)


def test_rows_that_a_clip_model_cannot_read_are_refused_before_training(tmp_path, folder):
    path = image_file(tmp_path / "a.png", (100, 100))
    long, special, same = "the cup that " * 7, f"the {END} cup", "An  Object"
    for sample, said in (
        (row(path, long), "tokens and"),
        (row(path, special), "spells out"),
        (row(path, same), "its goal and its baseline are the same text"),
        (row(path, image_index=1), "it has 1 images, and its boxes are of number 1"),
        (dataclasses.replace(row(path), images=(), video="a.mp4"), "has a video"),
    ):
        for answer in (sample.answer, [{**sample.answer, "label": sample.question}]):
            of_kind = dataclasses.replace(sample, answer=answer, task="detection" if isinstance(answer, list) else "grounding")
            with pytest.raises(ValueError, match="reward clip cannot score sample '1'") as caught:
                choose([f"clip:{folder},baseline=an object"], [of_kind], TASKS)
            assert said in str(caught.value)
            assert "\n" not in str(caught.value)
            with pytest.raises(RewardError, match="reward clip failed on sample '1'"):
                scores(f"clip:{folder},baseline=an object", ["[1, 1]"], [of_kind])
    choose([f"clip:{folder}"], [row(path, "x" * 75)], TASKS)
    with pytest.raises(ValueError, match="it has 78 tokens"):
        choose([f"clip:{folder}"], [row(path, "x" * 76)], TASKS)


def test_drawn_rows_can_be_paid(folder):
    rows = [grounding_sample(0, "train", i) for i in range(30)] + [detection_sample(0, "train", i) for i in range(30)]
    rubric = choose([f"clip:{folder},baseline=an object"], rows, TASKS)
    assert all(rubric.applies(rubric.rewards[0], sample) for sample in rows)


def test_the_banner_says_what_is_compared(folder):
    words = agreement_words(load_reward(f"clip:{folder},baseline=an object,goal=a photo of {{}}"))
    assert "compared with 'a photo of {}' ({} is what the row asks for)" in words
    assert "on the line from 'an object' by alpha 0.5" in words
    assert "projected" not in agreement_words(load_reward(f"clip:{folder}"))


def test_a_command_without_the_model_says_so(tmp_path, folder):
    with pytest.raises(RewardError, match="its model is not loaded here"):
        score_rows(load_reward(f"clip:{folder}"), ["[1, 1]"], [row(image_file(tmp_path / "a.png", (9, 9)))], 0, None)
