"""A system message and a prompt of one's own: what they replace, and that training and evaluation both say them."""

import json

import pytest

from vlrl.bench.suite import task_suite
from vlrl.models.inputs import messages
from vlrl.schema import Sample
from vlrl.tasks import TASKS, is_built_in
from vlrl.tasks.prompt_template import question_of, template_problem, text_or_file, with_prompt
from vlrl.training.config import parse
from vlrl.training.options import ConfigError

QA = Sample("1", "qa", "Which?", "B", choices=("a stone", "a tree"))


def test_question_and_prompt_are_filled_in():
    task = with_prompt(TASKS["qa"], None, "Look. {question}\nSay {json: 1}.")
    assert task.prompt(QA) == "Look. Which?\nA. a stone\nB. a tree\nSay {json: 1}."
    assert with_prompt(TASKS["qa"], None, "Now: {prompt}").prompt(QA) == f"Now: {TASKS['qa'].prompt(QA)}"
    assert is_built_in(task)
    assert with_prompt(TASKS["qa"], None, None) is TASKS["qa"]
    label = Sample("1", "classification", "What?", "cat", choices=("cat", "dog"))
    assert question_of(label) == "What?\nOne of: cat, dog"
    hostile = Sample("1", "qa", "{prompt} {question}?", "B")
    assert with_prompt(TASKS["qa"], None, "{prompt}").prompt(hostile) == TASKS["qa"].prompt(hostile)
    assert with_prompt(TASKS["qa"], None, "{question}").prompt(hostile) == "{prompt} {question}?"


def test_a_system_message_comes_first():
    task = with_prompt(TASKS["qa"], "Be short.", None)
    system, user = messages(QA, {"qa": task})
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be short."}]}
    assert user["role"] == "user"
    assert [turn["role"] for turn in messages(QA, TASKS)] == ["user"]


def test_texts_and_files(tmp_path):
    (tmp_path / "p.txt").write_text("Look. {question}\n")
    assert text_or_file("prompt_template", str(tmp_path / "p.txt")) == "Look. {question}"
    assert text_or_file("prompt_template", "Look. {question}") == "Look. {question}"
    assert text_or_file("prompt_template", None) is None
    with pytest.raises(ValueError, match="no such file"):
        text_or_file("system_prompt", "gone.txt")
    assert "{Question}" in template_problem("{Question} Think.")
    assert "{content}" in template_problem("{{ content | trim }} Think.")


def test_the_run_keeps_the_text_and_asks_with_it(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("Look. {question}")
    config = parse(["--task", "qa", "--prompt_template", str(path), "--system_prompt", "Be short."])
    assert config.values["prompt_template"] == "Look. {question}"
    assert (config.task.prompt(QA)[:6], config.task.system) == ("Look. ", "Be short.")
    with pytest.raises(ConfigError, match=r"has no \{question\}"):
        parse(["--task", "qa", "--prompt_template", "Look."])
    with pytest.raises(ConfigError, match="its rules"):
        parse(["--task", "points24", "--system_prompt", "Be short."])
    with pytest.raises(ConfigError, match="val_split"):
        parse(["--task", "qa", "--val_split", "0.1"])


def test_bench_run_asks_with_it(tmp_path):
    from vlrl.bench import parse_command

    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"id": "1", "task": "qa", "question": "Which?", "answer": "3"}))
    words = ["run", "--task", "qa", "--data", str(path), "--output_path", "x", "--prompt_template", "Look. {question}"]
    suite = task_suite(parse_command(words), None)
    assert suite.tasks["qa"].prompt(suite.stages[0]({})[0]) == "Look. Which?"
