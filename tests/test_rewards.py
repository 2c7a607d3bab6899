import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.answers.kind import answer_kinds
from vlrl.answers.read import read_boxes
from vlrl.rewards import REWARDS, as_trl, load_reward, score_rows
from vlrl.rewards.detection import iou_f1
from vlrl.rewards.grading import grade_case, options_in
from vlrl.schema import Reward, Sample, Score, TaskError

pytestmark = pytest.mark.quick

CASES = Path(__file__).parent / "cases"


def golden_rows():
    """The rows of a reward, each with its line. Rows that name their reward are for `test_reward_cases.py`."""
    found = {}
    for path in sorted(CASES.glob("*.jsonl")):
        lines = enumerate(path.read_text().splitlines(), start=1)
        if rows := [(number, row) for number, line in lines if "reward" not in (row := json.loads(line))]:
            found[path.stem] = rows
    return found


def golden_problem(name, row):
    """What is wrong with the values of a row, or None."""
    options = options_in(row)
    reward = load_reward(f"{name}:{options}" if options else name)
    scores = grade_case(reward, row, name)
    expected = row["values"] if "values" in row else [row["value"]]
    right = [score.value for score in scores] == [None if v is None else pytest.approx(v, abs=1e-4) for v in expected]
    return None if right and all(score.why for score in scores) else f"{scores}, expected {expected}: {row}"


@pytest.mark.parametrize(("name", "rows"), golden_rows().items(), ids=golden_rows())
def test_golden_values(name, rows):
    wrong = [f"{name}.jsonl:{number}: {found}" for number, row in rows if (found := golden_problem(name, row))]
    assert not wrong, "\n".join(wrong)


def test_every_reward_has_cases_and_its_own_name():
    for name, reward in REWARDS.items():
        assert reward.name == name
        if "model" not in reward.needs:  # test_rewards_model_reward.py makes models and scores with them
            assert (CASES / f"{name}.jsonl").is_file()


TRUE = [
    {"bbox_2d": [10, 10, 60, 60], "label": "dog"},
    {"bbox_2d": [100, 20, 180, 90], "label": "dog"},
    {"bbox_2d": [30, 120, 90, 170], "label": "cat"},
]
SAMPLE = Sample("s", "detection", "dog, cat", TRUE, ("a.jpg",), meta={"categories": ["dog", "cat"]})
NEGATIVE = Sample("n", "detection", "dog", [], ("a.jpg",), meta={"categories": ["dog"]})


def completion(items):
    return f"<think>t</think><answer>{json.dumps(items) if items else 'None'}</answer>"


RIGHT = completion(TRUE)
MUTATED = st.builds(
    lambda text, at, cut, junk: text[:at] + junk + text[at + cut :],
    st.sampled_from([RIGHT, RIGHT + RIGHT, RIGHT.replace('"', "'"), "[" * 20000, completion([])]),
    st.integers(0, len(RIGHT)),
    st.integers(0, 30),
    st.one_of(st.text(max_size=10), st.sampled_from(["9" * 400, "1e999", "NaN", "١٢", "[[[[", "</answer>", "\ud800"])),
)
ANY = st.one_of(st.text(), MUTATED, st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))


OF_TASK = {
    "detection": [SAMPLE, NEGATIVE],
    "grounding": [Sample("g", "grounding", "the dog", {"bbox_2d": [10, 10, 60, 60]}, ("a.jpg",))],
    "classification": [Sample("c", "classification", "what", "great_pyrenees", ("a.jpg",), choices=("great_pyrenees", "pug"))],
    "planning": [Sample("p", "planning", "plan", {"speed": "KEEP", "path": "LEFT_TURN"}, ("a.jpg",), meta={"speed_mps": 4})],
    "qa": [
        Sample("q1", "qa", "which", "B", choices=("a cat", "a dog")),
        Sample("q2", "qa", "is it", "yes"),
        Sample("q3", "qa", "how many", 12),
        Sample("q4", "qa", "what", ["a red bus", "bus"]),
    ],
}


@pytest.mark.parametrize("name", REWARDS)
def test_scores_stay_in_range_and_never_raise(name):
    reward = REWARDS[name]
    if "network" in reward.needs:
        pytest.skip("asks an endpoint; tested with a local one")
    if "model" in reward.needs:
        pytest.skip("needs a trained model; tested in test_rewards_model_reward.py")
    samples = [
        s for task, several in OF_TASK.items() for s in several if not reward.answers or reward.answers & answer_kinds(s)
    ]

    @given(ANY)
    def check(text):
        for sample in samples:
            for score in score_rows(reward, [text] * 2, [sample] * 2, 7, [40, 2000], [0.3, 1.0]):
                assert score.value is None or reward.low <= score.value <= reward.high
                if score.answer is None and score.value is not None and reward.low >= 0:
                    assert score.value == 0

    check()


@pytest.mark.parametrize("cut", range(0, len(RIGHT), 3))
def test_a_truncated_answer_earns_less_than_the_whole(cut):
    def earned(text, sample):
        return sum(REWARDS[name].function(text, sample).value for name in ("iou_f1", "think_answer_format"))

    assert earned(RIGHT, SAMPLE) == 2
    assert earned(RIGHT[:cut], SAMPLE) < 2
    assert earned(RIGHT[:cut], NEGATIVE) == 0


def noisy(rng):
    items = []
    for item in TRUE:
        if rng.random() < 0.8:
            shift = [rng.randint(-12, 12) for _ in range(4)]
            items.append({"bbox_2d": [v + d for v, d in zip(item["bbox_2d"], shift, strict=True)], "label": item["label"]})
    return items


def spam(rng):
    x, y = rng.randint(200, 400), rng.randint(200, 400)
    return rng.choice(
        [
            {"bbox_2d": [x, y, x + 20, y + 20], "label": "dog"},
            dict(rng.choice(TRUE)),
            {"bbox_2d": [1, 2, 3], "label": "cat"},
            {"bbox_2d": [x, y, x + 9, y + 9], "label": "zebra"},
        ]
    )


def test_order_never_matters_and_spam_never_pays():
    rng = random.Random(0)
    for _ in range(500):
        items = noisy(rng)
        value = iou_f1(completion(items), SAMPLE).value
        shuffled = rng.sample(items, len(items))
        assert iou_f1(completion(shuffled), SAMPLE).value == pytest.approx(value)
        # Spam is junk beside the answer: a copy of a true box that was missed would be an answer, not spam.
        extra = spam(rng)
        if extra in TRUE and not any(
            i["label"] == extra["label"] and iou_f1(completion([i]), one(extra)).value > 0 for i in items
        ):
            continue
        better = {"bbox_2d": extra["bbox_2d"], "label": extra["label"]} in TRUE
        if not better:
            assert iou_f1(completion([*items, extra]), SAMPLE).value <= value + 1e-12
        assert iou_f1(completion([*items, *items]), SAMPLE).value <= value + 1e-12


def one(item):
    return Sample("o", "detection", item["label"], [item], ("a.jpg",), meta={"categories": [item["label"]]})


def test_more_overlap_never_lowers_the_score():
    truth = one({"bbox_2d": [100, 100, 200, 200], "label": "dog"})
    values = [
        iou_f1(completion([{"bbox_2d": [100 + d, 100, 200 + d, 200], "label": "dog"}]), truth).value for d in range(100, -1, -1)
    ]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[-1] == 1


def test_adapter_passes_what_a_reward_needs():
    calls = []

    def group(texts, samples, *, step, n_tokens):
        calls.append((list(texts), [s.id for s in samples], step, n_tokens))
        return [Score(float(len(texts)), "x", "group")] * len(texts)

    reward = Reward("g", group, 0, 9, frozenset({"group", "step", "n_tokens"}))
    extra, metrics = {}, {}
    values = as_trl(reward)(
        prompts=["p"] * 3,
        completions=[
            "a",
            [{"role": "assistant", "content": "b"}],
            [{"role": "assistant", "content": [{"type": "text", "text": "c"}]}],
        ],
        completion_ids=[[1], [1, 2], [1, 2, 3]],
        sample=[SAMPLE, SAMPLE, NEGATIVE],
        trainer_state=SimpleNamespace(global_step=5),
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
        unrelated=[0, 0, 0],
    )
    assert values == [2, 2, 1]
    assert calls == [(["a", "b"], ["s", "s"], 5, [1, 2]), (["c"], ["n"], 5, [3])]
    assert extra == {"g/answer": ['"x"'] * 3, "g/why": ["group"] * 3}
    assert metrics == {"rewards/g/none_ratio": 0, "rewards/g/unparsed": 0}
    assert as_trl(reward).__name__ == "g"


def test_a_bug_in_a_grader_stops_the_run_and_names_the_sample():
    def broken(text, sample):
        return 1 / 0

    with pytest.raises(TaskError, match=r"broken.*'s'.*some text.*ZeroDivisionError"):
        score_rows(Reward("broken", broken, 0, 1), ["some text"], [SAMPLE], None, None)


def test_own_rewards_by_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def short(text, sample):\n    return 1.0 if len(text) < 9 else None\n")
    reward = load_reward(f"{path}:short")
    assert reward.name == "short"
    assert reward.function("x", SAMPLE) == Score(1.0, 1.0)
    assert reward.function("x" * 10, SAMPLE) == Score(None)
    for spec, words in (
        (f"{path}:long", "no function 'long'"),
        (f"{path}:shart", "did you mean 'short'"),
        ("gone.py:f", "reward gone.py:f: gone.py does not exist"),
        ("iou_f2", "did you mean 'iou_f1'"),
    ):
        with pytest.raises(ValueError, match=words):
            load_reward(spec)


def test_what_pays_is_what_is_drawn():
    parsed, _ = read_boxes(RIGHT, SAMPLE)
    assert [item["bbox_2d"] for item in iou_f1(RIGHT, SAMPLE).answer] == [list(box.xyxy) for box in parsed.items]


def test_own_rewards_may_define_dataclasses_and_must_return_numbers(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
        "def half(text, sample):\n    return 0.5\ndef nan(text, sample):\n    return float('nan')\n"
    )
    metrics = {}
    rows = {"prompts": ["p"], "completions": ["x"], "completion_ids": [[1]], "sample": [SAMPLE]}
    assert as_trl(load_reward(f"{path}:half"))(**rows, log_metric=metrics.__setitem__) == [0.5]
    assert metrics["rewards/half/unparsed"] == 0
    with pytest.raises(ValueError, match="reward nan returned nan for sample 's'"):
        as_trl(load_reward(f"{path}:nan"))(**rows)


RETURNS = """
import numpy as np
from vlrl.schema import Score
VALUES = {
    "float": 0.5, "int": 1, "bool": True, "np_float": np.float32(0.5), "np_int": np.int64(1), "np_bool": np.bool_(True),
    "none": None, "score": Score(0.5, {1, 2}), "int_score": Score(1, "x"),
    "text": "good", "nan": float("nan"), "inf": np.float64("inf"), "huge": 10**400, "list": [1.0], "array": np.ones(2),
    "complex": 1j, "text_score": Score("1"), "nan_score": Score(float("nan")),
}
def named(text, sample):
    if text == "tensor":
        import torch
        return torch.ones(1)
    if text == "coroutine":
        async def late():
            return 1.0
        return late()
    return VALUES[text]
async def late(text, sample): ...
async def many(text, sample): yield 1.0
def yields(text, sample): yield 1.0
def one(text): ...
def three(text, sample, other): ...
def keyword(text, sample, *, step): ...
def option(text, sample, *, power=2, exact=False, word=None): return Score(power, [exact, word])
def unknown(text, sample, *, power: "Nowhere" = 1): ...
number = 3
class Late:
    async def __call__(self, text, sample): ...
late_object = Late()
class Called:
    def __call__(self, text, sample): return 1
called = Called()
anything = lambda *args: 1
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "returns.py"
    path.write_text(RETURNS)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("float", 0.5), ("int", 1.0), ("bool", 1.0), ("np_float", 0.5), ("np_int", 1.0), ("np_bool", 1.0), ("none", None)],
        *[("score", 0.5), ("int_score", 1.0)],
    ],
)
def test_an_own_reward_may_return(own, text, value):
    extra = {}
    rows = {"prompts": ["p"], "completions": [text], "completion_ids": [[1]], "sample": [SAMPLE]}
    (found,) = as_trl(load_reward(f"{own}:named"))(**rows, log_extra=extra.__setitem__)
    assert found == value
    assert found is None or type(found) is float
    json.loads(extra["named/answer"][0])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("text", "the text 'good'"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("huge", "inf"),
        ("list", "a list"),
        ("array", r"a numpy.ndarray of shape \(2,\)"),
        ("tensor", r"a torch.Tensor of shape \(1,\)"),
        ("complex", "a complex"),
        ("coroutine", r"a coroutine \(async functions are not supported\)"),
        ("text_score", "a Score whose value is the text '1'"),
        ("nan_score", "a Score whose value is nan"),
    ],
)
def test_what_an_own_reward_may_not_return_is_one_line(own, text, what):
    with pytest.raises(ValueError, match=f"^reward named returned {what}.* for sample 's'; return a finite number") as error:
        score_rows(load_reward(f"{own}:named"), [text], [SAMPLE], None, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("late", "async functions are not supported"),
        ("many", "async functions are not supported"),
        ("late_object", "async functions are not supported"),
        ("yields", "it yields values"),
        ("one", r"it takes \(text\), but is called with \(text, sample\)"),
        ("three", "missing a required argument: 'other'"),
        ("keyword", "step: built-in rewards alone get these"),
        ("number", "it is a value of type int"),
        ("option:powr=1", "no option 'powr'; did you mean 'power'"),
        ("option:power=x", "power=x must be int or float"),
        ("option:power=1,power=2", "power is given twice"),
        ("unknown:power=2", "an annotation of its parameters cannot be read"),
    ],
)
def test_an_own_function_that_is_no_reward_is_refused_when_it_is_named(own, name, what):
    with pytest.raises(ValueError, match=f"^reward .*{what}"):
        load_reward(f"{own}:{name}")


def len_of(text, sample):
    return len(text)


def test_own_options_are_read_by_annotation_or_default(own):
    (score,) = score_rows(load_reward(f"{own}:option:power=0.5,exact=true,word=a=b"), ["x"], [SAMPLE], None, None)
    assert score == Score(0.5, [True, "a=b"])
    assert load_reward(len_of).name == "len_of"
    assert score_rows(load_reward(len_of), ["xyz"], [SAMPLE], None, None) == [Score(3.0, 3)]
    with pytest.raises(ValueError, match="reward test_own_options_are_read_by_annotation_or_default: it takes"):
        load_reward(test_own_options_are_read_by_annotation_or_default)
    for name in ("called", "anything", "option"):
        assert score_rows(load_reward(f"{own}:{name}"), ["x"], [SAMPLE], None, None)[0].value in (1, 2)


def test_a_group_reward_returns_one_score_a_completion():
    short = Reward("short", lambda texts, samples: [Score(1.0, "x")], 0, 1, frozenset({"group"}))
    with pytest.raises(TaskError, match="1 scores for 2 completions"):
        score_rows(short, ["a", "b"], [SAMPLE, SAMPLE], None, None)
