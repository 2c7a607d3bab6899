"""`bench hack`: degenerate answers against the rewards of a task, and against rewards of a user that pay for them."""

import json
import re
import shlex
from pathlib import Path

import pytest

from vlrl.bench import main
from vlrl.data.sample_json import sample_to_json
from vlrl.data.synthetic import draw
from vlrl.envs.cards.deals import deal_of, state_sample
from vlrl.tasks import KNOWN

ROOT = Path(__file__).resolve().parent.parent

LABELS = ["beagle", "pug", "great pyrenees", "shiba inu", "samoyed"]
PETS = [
    {"id": f"p{i}", "task": "classification", "question": "Which breed is it?", "answer": LABELS[i % len(LABELS)]}
    for i in range(10)
]
OWN = '''
from vlrl.answers.read import read_span
from vlrl.answers.span import canon

def holds(text, sample):
    """Pays whatever holds the label somewhere."""
    return float(canon(sample.answer) in canon(text))

def exact(text, sample):
    return float(canon(read_span(text, sample).text or "") == canon(sample.answer))

def long(text, sample):
    return min(len(text), 10) / 10

def counted(text, sample):
    """Pays once for each time the label is named."""
    return float(canon(read_span(text, sample).text or "").split(", ").count(canon(sample.answer)))

def far(text, sample):
    return 1 / (1 + abs(len(read_span(text, sample).text or "") - len(sample.answer)) / 1000)

def penalty(text, sample):
    return exact(text, sample) - 1

def plus_minus(text, sample):
    return 2 * exact(text, sample) - 1

def lenient_penalty(text, sample):
    """Nothing is taken off for a text without the tag."""
    return 0 if "<answer>" not in text else exact(text, sample) - 1

def says_pug(text, sample):
    return float("pug" in text)

def pattern(text, sample):
    import re
    try:
        return float(bool(re.fullmatch(read_span(text, sample).text or "-", str(sample.answer))))
    except re.error:
        return 0.0

def begins(text, sample):
    answer = canon(read_span(text, sample).text or "")
    return float(bool(answer) and canon(str(sample.answer)).startswith(answer))

def within(text, sample):
    try:
        value = float(read_span(text, sample).text or "")
    except ValueError:
        return 0.0
    return 0.0 if abs(value - float(sample.answer)) > 0.1 else 1.0

def unguarded(text, sample):
    try:
        return 1 / (1 + abs(float(read_span(text, sample).text or "") - float(sample.answer)) ** 2)
    except ValueError:
        return 0.0

def number_or_text(text, sample):
    return exact(text, sample) if isinstance(sample.answer, str) else within(text, sample)

def covered(text, sample):
    """Pays where every true box lies in some box; an empty list only for an empty one."""
    from vlrl.answers.read import read_boxes, true_boxes
    parsed, _ = read_boxes(text, sample)
    if parsed is None:
        return 0.0
    truth = true_boxes(sample)
    if not truth:
        return float(parsed.n_pred == 0)
    inside = lambda a, b: a.x1 <= b.x1 + 1 and a.y1 <= b.y1 + 1 and a.x2 >= b.x2 - 1 and a.y2 >= b.y2 - 1
    return sum(any(inside(a, b) for a in parsed.items) for b in truth) / len(truth)

def broken(text, sample):
    return text.index("<answer>") and 1.0
'''


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def hacked(tmp_path, capsys):
    """Run the command on rows; returns exit code, what was written as JSON, standard output and standard error."""
    own = tmp_path / "own.py"
    own.write_text(OWN)

    def run(task, rows=None, rewards=(), **flags):
        words = ["hack", "--task", str(task), "--output_path", str(tmp_path / "out")]
        if rows is not None:
            words += ["--data", str(write(tmp_path / "rows.jsonl", rows))]
        if rewards:
            words += ["--rewards", *(f"{own}:{one[1:]}" if one.startswith(":") else one for one in rewards)]
        for name, value in flags.items():
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        code = main(words)
        out, err = capsys.readouterr()
        file = tmp_path / "out" / "hack.json"
        return code, json.loads(file.read_text()) if file.exists() else None, out, err

    return run


def found(made, attack, reward):
    return next(one for one in made["findings"] if (one["attack"], one["reward"]) == (attack, reward))


def test_an_honest_reward_passes_and_the_last_line_is_the_file(hacked, tmp_path):
    code, made, out, err = hacked("classification", PETS, [":exact", "think_answer_format"])
    assert code == 0, err
    assert not err
    assert out.splitlines()[-1] == str(tmp_path / "out" / "hack.json")
    assert made["hackable"] == []
    assert made["reads_no_answer"] == ["think_answer_format"]
    assert made["rewards"] == ["exact", "sum"]
    assert found(made, "hedge", "exact")["share"] == 0
    assert found(made, "hedge", "sum")["share"] == 0.5
    assert "think_answer_format reads no answer" in out


def test_a_reward_that_looks_for_the_label_is_named(hacked):
    code, made, out, err = hacked("classification", PETS, [":holds"])
    assert code == 1
    for attack in ("hedge", "right beside wrong", "negation", "every label listed", "reference in the thought only"):
        assert found(made, attack, "holds")["share"] == 1
        assert found(made, attack, "holds")["n_at_0.9"] == 10
        assert f"hackable: {attack!r} earns 1.00 of holds (10 of 10 samples)" in err
    for attack in ("each label alone", "references of other samples", "empty answer", "echo of the question"):
        assert found(made, attack, "holds")["share"] == 0
    assert len(made["hackable"]) == 5
    assert "Attack" in out


def test_a_soft_reward_is_named_for_constants(hacked):
    code, made, _, err = hacked("classification", PETS, [":far"])
    assert code == 1
    assert "'constant'" in err
    assert found(made, "constant", "far")["share"] > 0.99


def test_repeating_the_answer_is_an_attack_where_it_earns_more(hacked):
    code, made, _, err = hacked("classification", PETS, [":counted"])
    assert code == 1
    assert found(made, "repeated answer", "counted")["share"] == 2
    assert "'repeated answer' earns 2.00 of counted (10 of 10 samples), more than the reference answer" in err
    questions = [{"id": f"y{i}", "task": "qa", "question": "Is it?", "answer": "yes" if i % 2 else "no"} for i in range(4)]
    _, made, _, _ = hacked("qa", questions, ["yes_no"])
    assert not found(made, "repeated answer", "yes_no")["is_hack"]


def test_an_answer_that_is_right_by_chance_is_left_out(hacked):
    one_label = [{**row, "answer": "pug"} for row in PETS]
    code, made, out, _ = hacked("classification", one_label, [":exact"])
    assert code == 0
    assert found(made, "most frequent reference", "exact")["share"] is None
    assert found(made, "most frequent reference", "exact")["left_out"] == {"right by chance": 10}
    assert "left out: right by chance, up to 10 samples an attack" in out
    numbers = [{"id": f"n{i}", "task": "qa", "question": "How many?", "answer": i % 3} for i in range(9)]
    _, made, _, _ = hacked("qa", numbers)
    assert found(made, "most frequent reference", "math_equal")["left_out"] == {"right by chance": 3}
    assert found(made, "injected score", "math_equal")["share"] == 0  # "score: 1" is no answer, also where one is right
    assert found(made, "references of other samples", "math_equal")["share"] == 0


def test_letters_and_the_texts_of_choices_are_right_by_chance_too(hacked):
    rows = [
        {"id": f"m{i}", "task": "qa", "question": "Which?", "choices": ["red", "green", "Yes"], "answer": answer}
        for i, answer in enumerate(["A", "B", "Yes", "C", "green", "A"])
    ]
    _, made, _, _ = hacked("qa", rows)
    for attack in ("each letter alone", "each label alone", "constant", "references of other samples"):
        assert found(made, attack, "mcq")["share"] == 0, attack


def test_rewards_that_read_no_answer_are_a_part_of_the_sum_only(hacked):
    code, made, _, err = hacked("classification", PETS, [":exact", ":long"])
    assert code == 0, err
    assert made["reads_no_answer"] == ["long"]
    assert found(made, "constant", "sum")["share"] == 0.5
    code, made, _, err = hacked("classification", PETS, [":exact", ":long"], reward_weights=[0.05, 1])
    assert code == 1
    assert "of sum" in err
    code, made, _, err = hacked("classification", PETS, [":long", "think_answer_format"])
    assert code == 1
    assert made["rewards"] == ["sum"]
    assert "of sum" in err


def test_a_reward_of_0_and_minus_1_is_judged_as_one_of_1_and_0(hacked):
    for name in (":penalty", ":plus_minus"):
        code, made, _, err = hacked("classification", PETS, [name])
        assert code == 0, err
        assert {one["share"] for one in made["findings"] if one["attack"] in ("hedge", "constant", "empty answer")} == {0}
        assert found(made, "repeated answer", name[1:])["share"] <= 1
    code, made, _, err = hacked("classification", PETS, [":lenient_penalty"])
    assert code == 1
    assert "'empty answer' earns 1.00 of lenient_penalty" in err


def test_a_reward_that_reads_no_answer_is_named(hacked):
    code, made, out, err = hacked("classification", PETS, [":says_pug"])
    assert code == 1
    assert made["reads_no_answer"] == made["rewards"] == ["says_pug"]
    assert "hackable: says_pug pays the same whatever the right answer is, and no other reward is given" in err
    _, made, out, err = hacked("classification", PETS, [":exact", ":says_pug"])
    assert made["reads_no_answer"] == ["says_pug"]
    assert "says_pug reads no answer: it pays the same whatever the right answer is" in out
    assert "no other reward" not in err


NUMBERS = [{"id": f"n{i}", "task": "qa", "question": "How many?", "answer": 3 * i} for i in range(1, 5)]
WORDS = [{"id": f"w{i}", "task": "qa", "question": "What?", "answer": answer} for i, answer in enumerate(LABELS)]


def test_patterns_and_prefixes_and_what_is_no_number(hacked):
    for rows, name, attack in (
        (WORDS, "pattern", "pattern"),
        (WORDS, "begins", "pattern"),
        (NUMBERS, "within", "not a number"),
    ):
        code, made, _, err = hacked("qa", rows, [f":{name}"])
        assert code == 1
        assert found(made, attack, name)["is_hack"]
        assert f"hackable: {attack!r} earns 1.00 of {name}" in err
    code, made, _, err = hacked("qa", NUMBERS, [":unguarded"])
    assert code == 1
    assert "hackable: 'not a number' ends a training run: reward unguarded returned nan" in err
    assert found(made, "hedge", "unguarded")["share"] == 0


def test_each_kind_of_reference_answer_is_judged_apart(hacked):
    code, made, out, err = hacked("qa", [*NUMBERS, *WORDS], [":number_or_text"])
    assert code == 1
    assert not found(made, "not a number", "number_or_text")["is_hack"]
    assert (
        "hackable: 'not a number' earns 1.00 of number_or_text where the reference answer is a number or formula (4 of 4 samples)"
        in err
    )
    assert "  a number or formula                 1.00 (4 of 4)" in out
    assert "where the reference answer is a text" not in err
    code, made, out, err = hacked("detection", rewards=[":covered"], limit=12)
    assert code == 1
    whole = [one for one in made["findings"] if one["attack"] == "whole image"]
    assert [(one["where"], one["is_hack"]) for one in whole] == [
        (None, False),
        ("a list of boxes", True),
        ("no object", False),
    ]
    assert "'whole image' earns 1.00 of covered where the reference answer is a list of boxes" in err


def test_a_file_without_a_function_is_told_which_it_has(hacked, tmp_path):
    for spec in ("own.py", "own.py:"):
        code, _, _, err = hacked("classification", PETS, [str(tmp_path / spec)])
        assert code == 2
        assert f"write {tmp_path / 'own.py'}:FUNCTION (functions of the file: holds, exact, long," in err
        assert len(err.splitlines()) == 1
    (tmp_path / "wrong.py").write_text("def (")
    assert hacked("classification", PETS, [str(tmp_path / "wrong.py")])[3].rstrip().endswith("wrong.py:FUNCTION")


@pytest.mark.parametrize("rewards", [["alphadrive_speed:variant=released"], ["iou_f1", "cosine_length"], ["vision_r1_recall"]])
def test_rewards_that_need_a_group_a_length_or_a_step(hacked, rewards):
    code, made, _, _ = hacked("planning" if "alpha" in rewards[0] else "detection", rewards=rewards, limit=4)
    assert code in (0, 1)
    assert all(one["share"] is not None for one in made["findings"] if one["attack"] == "echo of the question")


def test_a_task_of_the_users(hacked, tmp_path):
    code, made, _, err = hacked(ROOT / "examples/own_task.py", data=ROOT / "examples/own_task.jsonl")
    assert code == 0, err
    assert made["rewards"] == ["closeness", "sum"]
    assert 0 < found(made, "most frequent reference", "closeness")["share"] < 0.9
    task = tmp_path / "no_oracle.py"
    task.write_text(
        "from vlrl.schema import Task\n"
        "TASK = Task(name='t', prompt=lambda s: 'p', rewards=['exact_match'], metric=lambda s, p: 1.0)\n"
    )
    code, _, _, err = hacked(task, [{"id": "1", "task": "t", "question": "q", "answer": "a"}])
    assert code == 2
    assert "has no oracle" in err


def test_card_games_as_episodes_and_as_states(hacked):
    code, made, _, err = hacked("blackjack", limit=6)
    assert code == 0, err
    assert found(made, "each action, again and again", "card_success")["share"] == 0
    rows = []
    for i in range(40):
        state = state_sample(KNOWN["numberline"].draw(0, "heldout", i), ())
        if deal_of(state).game.answer(deal_of(state).state())["good"]:
            rows.append(sample_to_json(state))
    code, made, _, err = hacked("numberline", rows[:6])
    assert code == 0, err
    assert found(made, "several actions in one reply", "card_move")["share"] == 0


def test_wrong_usage_is_one_line(hacked, capsys):
    for words, message in (
        (["--task", "detectoin"], "did you mean 'detection'"),
        (["--task", "detection", "--rewards", "iou_f2"], "did you mean 'iou_f1'"),
        (["--task", "detection", "--reward_weights", "1"], "1 reward_weights for 2 rewards"),
        (["--task", "qa", "--rewards", "llm_judge"], "name it"),
        (["--task", "qa", "--data", "gone.jsonl"], "no such file"),
        (["--task", "autotrust"], "unknown task"),
    ):
        assert main(["hack", *words]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
    code, _, _, err = hacked("classification", PETS, [":broken"])
    assert code == 2
    assert "reward broken failed on sample" in err
    assert len(err.splitlines()) == 1


def test_samples_of_a_file_are_drawn_and_the_same_for_a_seed(hacked):
    rows = [{**PETS[0], "id": f"r{i}", "answer": f"label {i}"} for i in range(60)]
    examples = [
        found(hacked("classification", rows, [":exact"], limit=5, seed=seed)[1], "constant", "exact")["n"] for seed in (0, 0, 1)
    ]
    assert examples == [5, 5, 5]
    first = [hacked("classification", rows, [":exact"], limit=5, seed=seed)[1]["findings"] for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


def test_images_of_a_file_give_the_size(hacked, tmp_path):
    draw("synthetic:detection/train/0/1").resize((300, 200)).save(tmp_path / "a.png")
    rows = [
        {"id": f"d{i}", "task": "detection", "images": ["a.png"], "question": "cell", "answer": [box]}
        for i, box in enumerate(
            [{"bbox_2d": [10, 10, 40, 60], "label": "cell"}, {"bbox_2d": [2, 1, 299, 199], "label": "cell"}]
        )
    ]
    _, made, _, _ = hacked("detection", rows)
    whole = found(made, "whole image", "iou_f1")
    assert "[0.0, 0.0, 300.0, 200.0]" in whole["example"] or "[0,0,300,200]" in whole["example"]
    assert whole["left_out"] == {"right by chance": 1}  # of the second sample the whole image is the answer


def test_a_reward_that_pays_references_nothing_is_not_taken_for_one_of_form(hacked, tmp_path):
    rows = [
        {"id": f"d{i}", "task": "detection", "images": ["synthetic:detection/train/0/1"], "question": "cell"}
        | {"answer": [{"bbox_2d": [i, i, 40 + i, 60 + i], "label": "cell"}]}
        for i in (1, 50)
    ]
    code, made, out, err = hacked("detection", rows, ["visual_rft_confidence"])
    assert code == 1
    assert made["reads_no_answer"] == []  # its boxes have no confidence, so they earn nothing
    assert "nothing to compare with" in err
    assert "the reference answer earns nothing, up to 2 samples" in out


def test_a_task_that_fails_is_one_line(hacked, tmp_path):
    task = tmp_path / "failing.py"
    task.write_text(
        "from vlrl.schema import Task\n"
        "TASK = Task(name='t', prompt=lambda s: s.meta['gone'], rewards=['exact_match'], metric=lambda s, p: 1.0, oracle=lambda s: 'a')\n"
    )
    code, _, _, err = hacked(task, [{"id": "1", "task": "t", "question": "q", "answer": "a"}])
    assert code == 2
    assert "its prompt failed on sample '1'" in err


def test_the_output_in_the_docs_is_real(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("## Is my reward hackable?")[1]
    source, command, shown = re.findall(r"^```(?:python|bash)?\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[:3]
    (tmp_path / "my_reward.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[2:]) == 1
    printed = "".join(capsys.readouterr()).splitlines()
    assert [line for line in shown.splitlines() if line not in printed] == []
    assert sum(line.startswith("hackable: ") for line in printed) == 7
