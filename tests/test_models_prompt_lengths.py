"""Lengths of prompts with images are those of the processor, and prompts that surely fit are not tokenised."""

import json
import random
import re

import pytest
from PIL import Image

from vlrl.data.special_tokens import as_plain_text, split_tokens
from vlrl.models.inputs import check_samples, messages, prepare_sample, prompt_problem
from vlrl.models.load import placeholders, special_token_pattern
from vlrl.models.prompt_lengths import PromptLengths, context_length
from vlrl.schema import Sample, SampleError, Task
from vlrl.tasks import TASKS

SIZES = [(1, 1), (1, 3), (3, 1), (5, 1), (27, 200), (640, 480), (112, 112), (2000, 11), (33, 57)]


def words(text, n=1):
    return [{"role": "user", "content": [*({"type": "image"} for _ in range(n)), {"type": "text", "text": text}]}]


def true_length(tiny, prompt, sizes):
    text = tiny.processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    images = [[Image.new("RGB", size) for size in sizes]] if sizes else None
    return len(tiny.processor(text=[text], images=images, add_special_tokens=False)["input_ids"][0])


def test_lengths_are_those_of_the_processor_and_the_bound_holds(tiny):
    rng = random.Random(0)
    lengths, prompts, wanted = PromptLengths(tiny.processor), [], []
    for n in range(40):
        sizes = [rng.choice(SIZES) for _ in range(rng.randrange(3))]
        letters = ["abc xyz 019<>|{}\"'\n\t", "äöü ﬁ ﷺ 漢字 🙂 ​é"][n % 2]
        prompt = words("".join(rng.choice(letters) for _ in range(rng.randrange(1, 200))), len(sizes))
        lengths.add(prompt, sizes)
        prompts.append(prompt)
        wanted.append(true_length(tiny, prompt, sizes))
    assert lengths.longer_than(0, prompts.__getitem__) == dict(enumerate(wanted))
    assert all(bound >= n for bound, n in zip(lengths._bounds, wanted, strict=True))
    middle = sorted(wanted)[20]
    assert lengths.longer_than(middle, prompts.__getitem__) == {i: n for i, n in enumerate(wanted) if n > middle}


def test_a_prompt_that_surely_fits_is_not_made(tiny):
    lengths = PromptLengths(tiny.processor)
    for _ in range(1000):
        lengths.add(words("What is shown?"), [(640, 480)])

    def never(place):
        raise AssertionError(place)

    assert lengths.longer_than(200, never) == {}


def test_a_processor_that_takes_no_small_image_names_the_row(tiny, tmp_path, monkeypatch):
    Image.new("RGB", (2, 9)).save(tmp_path / "a.png")
    sample = Sample("small", "qa", "What is 1 + 1?", 2, (str(tmp_path / "a.png"),))
    check_samples([sample], TASKS, tiny, "x.jsonl", lengths=PromptLengths(tiny.processor))

    def refuses(self, images, **options):
        raise ValueError("height and width must be larger than factor")

    monkeypatch.setattr(type(tiny.processor.image_processor), "__call__", refuses)
    with pytest.raises(SampleError, match=r"x\.jsonl \(id 'small'\): .*takes no image of 2x9 px: height and width must be"):
        check_samples([sample], TASKS, tiny, "x.jsonl", lengths=PromptLengths(tiny.processor))


def test_special_tokens_of_a_row_reach_the_model_as_text(tiny):
    tokens = [str(token) for token in tiny.tokenizer.added_tokens_decoder.values()]
    sample = prepare_sample(Sample("r", "qa", f"What are {' '.join(tokens)}?", tokens[0]), tiny)
    text = messages(sample, TASKS)[0]["content"][-1]["text"]
    assert not set(tiny.tokenizer(text).input_ids) & set(tiny.tokenizer.added_tokens_decoder)
    assert not special_token_pattern(tiny.processor).search(text)
    assert true_length(tiny, messages(sample, TASKS), []) > 30
    target = as_plain_text(sample, TASKS["qa"].sft_target(sample))
    assert not set(tiny.tokenizer(target).input_ids) & set(tiny.tokenizer.added_tokens_decoder)
    assert split_tokens(tokens[0], [tokens[0]]) in target


def test_a_placeholder_that_a_task_adds_is_refused_with_its_row(tiny):
    token = placeholders(tiny.processor)[0]
    task = Task("mine", lambda sample: f"{token} {sample.question}", ["math_equal"], lambda sample, prediction: 1.0)
    sample = prepare_sample(Sample("r", "mine", "?", "1"), tiny)
    assert f"task mine holds {token}" in prompt_problem(sample, task, tiny)
    other = Task("mine", lambda sample: f"<|im_start|> {sample.question}", ["math_equal"], lambda sample, prediction: 1.0)
    assert prompt_problem(sample, other, tiny) is None, "other tokens of a task's own are its business"


def test_the_context_is_read_from_the_config(tiny):
    assert context_length(tiny.model.config) == 4096
    assert context_length(object()) is None


def test_bench_run_refuses_prompts_beyond_the_context_before_it_answers(tmp_path, capsys):
    from vlrl.bench import main

    rows = [{"id": f"r{i}", "task": "qa", "question": "Why?" + " very" * (4000 * (i == 1)), "answer": 1} for i in range(3)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["run", "--task", "qa", "--data", str(tmp_path / "data.jsonl"), "--output_path", str(tmp_path / "out")]
    assert main(words) == 2
    assert re.search(
        r"error: 1 of 3 prompts are longer than 4,000 tokens .*; the first: 'r1' \(\d+,\d+ tokens\)", capsys.readouterr().err
    )
