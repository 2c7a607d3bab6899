import contextlib
import functools
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment
from test_rewards import ANY, OF_TASK

from vlrl.answers.geometry import best_matching, best_pairs, giou, iou, matching_sizes
from vlrl.rewards import REWARDS, load_reward
from vlrl.rewards.grading import grade_case, options_in
from vlrl.rewards.vlm_r1 import THRESHOLDS
from vlrl.schema import Box, ModelView, Sample
from vlrl.tasks import TASKS

CASES = Path(__file__).parent / "cases"
SETS = ["iou_f1", "visual_rft_iou", "visual_rft_confidence", "vlm_r1_map", "vlm_r1_map50", "vlm_r1_odlength", "vlm_r1_weighted", "vision_r1_precision", "vision_r1_recall", "vision_r1_recall:quality=giou", "vision_r1_precision:adaptive=true,stage_step=100", "vision_r1_recall:adaptive=true,stage_step=5"]  # fmt: skip
ONE_BOX = ["visual_rft_giou", "vlm_r1_iou", "rec_format"]
FORMS = ["vision_r1_format", "json_format", "think_answer_format"]
RELEASED = [name for name, reward in REWARDS.items() if name.startswith(("visual_rft_conf", "vlm_r1", "vision_r1")) and name != "vlm_r1_iou"]  # fmt: skip
LABELS = ("dog", "cat", "bird")


cached_reward = functools.cache(load_reward)


def score(spec, text, sample):
    reward = cached_reward(spec)
    return reward.function(text, sample, **({"step": 7} if "step" in reward.needs else {})).value


def sample_of(true):
    return Sample("s", "detection", "find", true, ("a.jpg",), meta={"categories": list(LABELS)})


def wrap(items):
    return f"<think>t</think><answer>```json\n{json.dumps(items)}\n```</answer>"


def item(box, label, **more):
    return {"bbox_2d": list(box), "label": label, **more}


def apart(rng, n, labels=LABELS):
    """True boxes that do not touch, one in a cell of 100 pixels."""
    true = []
    for cell in rng.sample(range(100), n):
        x, y = 100 * (cell % 10) + rng.uniform(0, 20), 100 * (cell // 10) + rng.uniform(0, 20)
        true.append(item((x, y, x + rng.uniform(30, 70), y + rng.uniform(30, 70)), rng.choice(labels)))
    return true


def narrowed(true, share, **more):
    """A part of a true box whose IoU with it is `share`."""
    x1, y1, x2, y2 = true["bbox_2d"]
    return item((x1, y1, x1 + share * (x2 - x1), y2), true["label"], **more)


def anywhere(rng, n, labels=LABELS):
    made = []
    for _ in range(n):
        x, y = rng.uniform(0, 100), rng.uniform(0, 100)
        made.append(item((x, y, x + rng.uniform(20, 90), y + rng.uniform(20, 90)), rng.choice(labels)))
    return made


def guesses(rng, true):
    """Near copies of the true boxes, in any order, some missing, some doubled, some wrong."""
    made = []
    for t in true:
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            box = [v + rng.uniform(-9, 9) for v in t["bbox_2d"]]
            made.append(item(box, t["label"] if rng.random() < 0.9 else "zebra", confidence=round(rng.random(), 2)))
    made += [{**one, "confidence": rng.random()} for one in anywhere(rng, rng.choice([0, 0, 2]))]
    return rng.sample(made, len(made))


def coco_ap(true, predicted, thresholds):
    """pycocotools' AP of one image; every score is 1."""
    names = {label: k + 1 for k, label in enumerate(dict.fromkeys(t["label"] for t in true))}

    def rows(items):
        found = []
        for one in items:
            x1, y1, x2, y2 = one["bbox_2d"]
            box = [x1, y1, x2 - x1, y2 - y1]
            if one["label"] in names:
                found.append({"id": len(found) + 1, "image_id": 1, "category_id": names[one["label"]], "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": 1.0})  # fmt: skip
        return found

    if not rows(predicted):
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": 1}], "annotations": rows(true), "categories": [{"id": k} for k in names.values()]}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows(predicted)), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][: len(thresholds)].mean()


def test_best_pairs_equal_the_assignment_problem_on_1000_random_sets():
    rng = random.Random(0)
    n_exact = 0
    for _ in range(1000):
        n, m = rng.randint(1, 7), rng.randint(1, 7)
        gain = np.array([[rng.choice([0, 0, 0, rng.random()]) for _ in range(m)] for _ in range(n)])
        pairs = [(i, j, float(gain[i, j])) for i in range(n) for j in range(m) if gain[i, j] > 0]
        found = best_pairs(pairs)
        assert sum(q for _, _, q in found) == pytest.approx(gain[linear_sum_assignment(gain, maximize=True)].sum())
        assert len({i for i, _, _ in found}) == len({j for _, j, _ in found}) == len(found)
        assert set(found) <= set(pairs)
        n_exact += len(found) not in (len({i for i, _, _ in pairs}), len({j for _, j, _ in pairs}))
    assert n_exact > 50  # sets that need weighing, not only choosing


def test_matching_sizes_equal_the_assignment_problem_on_1000_random_sets():
    rng = random.Random(1)
    for _ in range(1000):
        n, m = rng.randint(1, 8), rng.randint(1, 8)
        gain = np.array([[rng.choice([0, 0, rng.uniform(0.4, 1)]) for _ in range(m)] for _ in range(n)])
        pairs = [(i, j, float(gain[i, j])) for i in range(n) for j in range(m) if gain[i, j] >= 0.5]
        expected = []
        for threshold in THRESHOLDS:
            allowed = gain >= threshold
            expected.append(int(allowed[linear_sum_assignment(allowed, maximize=True)].sum()))
        assert matching_sizes(pairs, THRESHOLDS) == expected


def test_map_is_pycocotools_where_every_prediction_is_a_true_positive():
    rng = random.Random(2)
    for _ in range(1000):
        labels = LABELS[: rng.randint(1, 3)]
        true = [one for label in labels for one in apart(rng, rng.randint(1, 9), (label,))]
        share = {label: rng.uniform(0.4, 1) for label in labels}
        predicted = []
        for t in true:
            if rng.random() < 0.7:
                # All of one label alike, or all above every threshold: at each threshold, every one counts or none does.
                predicted.append(narrowed(t, rng.uniform(0.951, 1) if share[t["label"]] > 0.9 else share[t["label"]]))
        rng.shuffle(predicted)
        for spec, thresholds in (("vlm_r1_map", THRESHOLDS), ("vlm_r1_map50", THRESHOLDS[:1])):
            value = score(spec, wrap(predicted) if predicted else wrap([]), sample_of(true))
            assert value == pytest.approx(coco_ap(true, predicted, thresholds), abs=1e-9)


def test_odlength_is_pycocotools_with_predictions_by_decreasing_iou():
    rng = random.Random(3)
    for _ in range(1000):
        true = [one for label in LABELS[: rng.randint(1, 3)] for one in apart(rng, rng.randint(1, 9), (label,))]
        predicted = [narrowed(t, rng.uniform(0.4, 1)) for t in true for _ in range(rng.choice([0, 1, 1, 2]))]
        predicted += apart(rng, rng.choice([0, 1, 4]), (*LABELS, "zebra"))
        rng.shuffle(predicted)
        p, t = ([Box(*one["bbox_2d"], one["label"]) for one in side] for side in (predicted, true))
        taken = {i: overlap for i, _, overlap in best_matching(p, t, 0.0)}
        ordered = [predicted[i] for i in sorted(range(len(predicted)), key=lambda i: -taken.get(i, 0.0))]
        expected = coco_ap(true, ordered, THRESHOLDS) * min(1, len(true) / max(len(predicted), 1))
        assert score("vlm_r1_odlength", wrap(predicted), sample_of(true)) == pytest.approx(expected, abs=1e-9)


def test_released_ap_is_pycocotools_in_the_order_of_the_answer():
    rng = random.Random(4)
    n_other = 0
    for _ in range(1000):
        true = anywhere(rng, rng.randint(1, 12), LABELS[: rng.randint(1, 3)])
        predicted = guesses(rng, true)
        sample, text = sample_of(true), wrap(predicted)
        whole = coco_ap(true, predicted, THRESHOLDS)
        assert score("vlm_r1_map:variant=released", text, sample) == pytest.approx(whole, abs=1e-9)
        assert score("vlm_r1_map50:variant=released", text, sample) == pytest.approx(coco_ap(true, predicted, THRESHOLDS[:1]))
        factor = min(1, len(true) / max(len(predicted), 1))
        assert score("vlm_r1_odlength:variant=released", text, sample) == pytest.approx(whole * factor, abs=1e-9)
        n_other += score("vlm_r1_map", text, sample) != pytest.approx(whole)
    assert n_other > 500  # the default is another formula


@pytest.mark.parametrize("quality", ["iou", "giou"])
def test_vision_r1_pays_the_matching_of_best_total_quality(quality):
    rng = random.Random(5)
    measure = {"iou": iou, "giou": giou}[quality]
    for _ in range(500):
        true, predicted = anywhere(rng, rng.randint(1, 6)), anywhere(rng, rng.randint(1, 6))
        gain = np.array(
            [[max(measure(p["bbox_2d"], t["bbox_2d"]), 0) * (p["label"] == t["label"]) for t in true] for p in predicted]
        )
        best = gain[linear_sum_assignment(gain, maximize=True)]
        sample, text = sample_of(true), wrap(predicted)
        for options, low, high, least, recall_low, recall_high in (
            ("", 0, 1, 0.5, 0, 1),
            (",adaptive=true", 0.5, 0.75, 0.5, 0.5, 0.75),
            (",adaptive=true,stage_step=7", 0.75, 0.9, 0.75, 0.5, 0.75),
        ):
            expected = np.where(best < low, 0, np.where(best > high, 1, best)).sum() / len(predicted)
            recall = (best >= least).sum() / len(true)
            recall = 0 if recall < recall_low else 1 if recall > recall_high else recall
            assert score(f"vision_r1_precision:quality={quality}{options}", text, sample) == pytest.approx(expected)
            assert score(f"vision_r1_recall:quality={quality}{options}", text, sample) == pytest.approx(recall)


@pytest.mark.parametrize("spec", SETS)
def test_order_never_matters(spec):
    rng = random.Random(6)
    values = set()
    for _ in range(300):
        true = anywhere(rng, rng.randint(1, 6))
        predicted = guesses(rng, true)
        value = score(spec, wrap(predicted), sample_of(true))
        for _ in range(2):
            shuffled = wrap(rng.sample(predicted, len(predicted)))
            assert score(spec, shuffled, sample_of(rng.sample(true, len(true)))) == pytest.approx(value)
        values.add(round(value, 6))
    assert len(values) > 4


SPAM = [
    {"bbox_2d": [900, 10, 910, 20], "label": "dog"},
    {"bbox_2d": [900, 10, 910, 20], "label": "cat", "confidence": 0.0},
    {"bbox_2d": [900, 10, 910, 20], "label": "dog", "confidence": 0.9},
    {"bbox_2d": [900, 10, 910, 20], "confidence": 1.0},
    {"bbox_2d": [900, 10, 910, 20], "label": "zebra"},
    {"bbox_2d": [900, 10, 910], "label": "dog"},
    {"bbox_2d": [910, 10, 900, 20], "label": "unicorn"},
    {"label": "dog"},
]


@pytest.mark.parametrize("spec", SETS)
def test_spam_and_duplicates_never_pay(spec):
    rng = random.Random(7)
    for _ in range(200):
        true = apart(rng, rng.randint(1, 6))
        predicted = guesses(rng, true)
        sample = sample_of(true)
        value = score(spec, wrap(predicted), sample)
        extra = [dict(rng.choice(SPAM)) for _ in range(rng.choice([1, 2, 20]))]
        assert score(spec, wrap(rng.sample(predicted + extra, len(predicted + extra))), sample) <= value + 1e-12
        assert score(spec, wrap(predicted + predicted), sample) <= value + 1e-12
        if predicted:
            assert score(spec, wrap([*predicted, rng.choice(predicted)]), sample) <= value + 1e-12


def with_spam(text, extra):
    """The completion with one more item in its list, or where it holds none, at its end."""
    written = str(extra) if "'" in text and '"' not in text else json.dumps(extra)
    at = text.rfind("}]")
    if at >= 0:
        return f"{text[: at + 1]}, {written}{text[at + 1 :]}"
    if "[]" in text:
        return text.replace("[]", f"[{written}]")
    end = text.rfind("</answer>")
    end = len(text) if end < 0 else end
    return f"{text[:end]} {written}{text[end:]}"


@pytest.mark.parametrize("name", [*(spec for spec in SETS if ":" not in spec), *ONE_BOX, *FORMS])
def test_spam_never_raises_a_golden_completion(name):
    n = 0
    for line in (CASES / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("variant", "default") != "default":
            continue
        options = options_in(row)
        reward = load_reward(f"{name}:{options}" if options else name)
        text = row["completion"]
        spams = [with_spam(text, extra) for extra in SPAM] + [text + text, text + " and so on", "Well: " + text]
        if name in (*ONE_BOX, *FORMS) and grade_case(reward, row, name)[0].value == 0:
            # One box where there was no answer is an answer: of the right form, and a far one earns a little GIoU.
            spams = spams[len(SPAM) :]
        if "}, {" in text:
            spams.append(text.replace("}, {", "}, {" + text.split("}, {")[0].rsplit("{", 1)[1] + "}, {", 1))
        for spam in spams:
            (found,) = grade_case(reward, {**row, "completion": spam}, name)
            assert found.value <= row["value"] + 1e-4, spam
            n += 1
    assert n > 50


@pytest.mark.parametrize("spec", [*SETS, *ONE_BOX])
def test_more_overlap_never_lowers_the_score(spec):
    true = item((100, 100, 200, 200), "dog")
    box = {"bbox_2d": true["bbox_2d"]}
    sample = sample_of([true]) if spec in SETS else Sample("g", "grounding", "it", box, ("a.jpg",))
    values = []
    for shift in range(120, -1, -1):
        moved = item((100 + shift, 100, 200 + shift, 200), "dog", confidence=0.8)
        text = wrap([moved]) if spec in SETS else wrap({"bbox_2d": moved["bbox_2d"]})
        values.append(score(spec, text, sample))
    assert values == sorted(values)
    assert values[0] < values[-1] or spec == "rec_format"


@pytest.mark.parametrize("name", RELEASED)
def test_released_variants_never_raise(name):
    reward = load_reward(f"{name}:variant=released")
    staged = {"step": 1500} if "step" in reward.needs else {}

    @given(ANY)
    def check(text):
        for sample in OF_TASK["detection"]:
            found = reward.function(text, sample, **staged)
            assert 0 <= found.value <= 1
            assert found.why
            assert found.answer is not None or found.value == 0

    assert len(RELEASED) == 8
    check()


@pytest.mark.parametrize("name", ["vision_r1_precision", "vision_r1_recall"])
def test_stages_need_a_step(name):
    text, sample = wrap([item((1, 2, 3, 4), "dog")]), sample_of([item((1, 2, 3, 4), "dog")])
    reward = load_reward(f"{name}:adaptive=true")
    with pytest.raises(ValueError, match="needs the training step"):
        reward.function(text, sample, step=None)
    with pytest.raises(ValueError, match=r"stage_step=0\.5 is below 1"):
        load_reward(f"{name}:stage_step=0.5").function(text, sample, step=3)
    with pytest.raises(ValueError, match="quality=box must be iou/giou"):
        load_reward(f"{name}:quality=box")
    assert REWARDS[name].function(text, sample, step=None).value == 1


@pytest.mark.parametrize("layout", ["think_answer", "answer", "answer_think", "none"])
@pytest.mark.parametrize("form", ["json", "fenced_json", "position_confidence", "corners"])
def test_the_right_answer_earns_full_marks_in_every_form(layout, form):
    true = [item((10, 20, 30, 40), "dog"), item((50, 20, 90, 40), "dog")]
    meta, view = {"answer_format": layout, "box_format": form, "image_size": [200, 100]}, ModelView("norm1000")
    names = {
        "detection": [name for name in SETS if form == "position_confidence" or name != "visual_rft_confidence"],
        "grounding": ONE_BOX,
    }
    samples = [
        Sample("d", "detection", "dog", true, ("a.jpg",), meta={**meta, "categories": ["dog"]}, view=view),
        Sample("n", "detection", "dog", [], ("a.jpg",), meta={**meta, "categories": ["dog"]}, view=view),
        Sample("g", "grounding", "the dog", {"bbox_2d": [10, 20, 30, 40]}, ("a.jpg",), meta=meta, view=view),
    ]
    for sample in samples:
        for name in names[sample.task]:
            reward = load_reward(name)
            if "tags" in reward.needs and layout == "none":
                continue
            if name == "rec_format" and form in ("corners",):
                name = "rec_format:object_required=false"
            assert score(name, TASKS[sample.task].oracle(sample), sample) == reward.high, name
        if sample.task == "detection" and form in ("json", "fenced_json"):
            assert score("vision_r1_format", TASKS["detection"].oracle(sample), sample) == 1


def test_labels_that_no_true_box_has_cost_nothing_twice():
    """Items that cannot match count once in their label, and a label once in the mean."""
    true = [item((10, 10, 60, 60), "dog"), item((100, 100, 160, 160), "cat")]
    for extra, value in (
        ([item((1, 2, 3), "dog")], 0.75),
        ([item((1, 2, 3), "dog")] * 3, 0.625),
        ([item((1, 2, 3), "zebra")] * 3, 2 / 3),
        ([{"bbox_2d": [1, 2, 3]}, "text"], 2 / 3),
    ):
        assert score("vlm_r1_map50", wrap(true + extra), sample_of(true)) == pytest.approx(value)


def test_a_thousand_boxes_cost_little_and_all_count():
    true = [item((10 * k, 0, 10 * k + 9, 9), "dog") for k in range(30)]
    text = wrap((true * 34)[:1000])
    assert score("iou_f1", text, sample_of(true)) == pytest.approx(2 * 30 / 1030)
    assert score("vlm_r1_odlength", text, sample_of(true)) == pytest.approx(30 / 1000)
    assert score("vlm_r1_map", text, sample_of(true)) == pytest.approx(30 / 1000)
