"""The model card of a run: facts alone, metadata that the hub takes, and no text that becomes markup. Its code is run by
`tests/test_examples.py`."""

import ast
import json
import re

import pytest
from huggingface_hub import ModelCard

from vlrl.training.model_card import cell, code, use, write_card, write_draft

pytestmark = pytest.mark.quick

SUMMARY = {
    "task": "detection",
    "model": "Qwen/Qwen2.5-VL-3B-Instruct",
    "data": "90 samples of a|b.jsonl, 10 more held out",
    "stage": "grpo",
    "seed": 3,
    "steps": 1200,
    "train_seconds": 7200.0,
    "versions": {
        "python": "3.11",
        "vlrl": "0.1.0",
        "torch": "2.14.1",
        "trl": "1.16.0",
        "transformers": "5.24.0",
        "peft": "0.21.2",
    },
    "git": "abc",
    "command": "vlrl/train.py --task detection",
    "headline": "f1@0.5",
    "before": {"f1@0.5": {"value": 0.25, "ci95": [0.2, 0.3], "n": 10}, "f1@0.5[cat]": {"value": 0.1, "ci95": None, "n": 2}},
    "after": {"f1@0.5": {"value": 0.5, "ci95": [0.45, 0.55], "n": 10}, "ap": {"value": None, "ci95": None, "n": 0}},
    "n_unparsed": 1,
    "n_truncated": 0,
    "rewards": ["iou_f1"],
    "coords": "resized_px",
    "hardware": "8 x NVIDIA H100",
    "digests": {"a|b.jsonl": "ff00"},
    "events": [{"stage": "grpo", "step": 7, "event": "constant_reward"}],
    "example": {"system": "Be brief.", "prompt": 'Find "cat"', "n_images": 2, "has_boxes": True, "max_new_tokens": 64},
}


def written(tmp_path, **changes):
    (tmp_path / "final").mkdir(exist_ok=True)
    (tmp_path / "samples.png").write_bytes(b"png")
    (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, **changes}))
    write_card(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text == (tmp_path / "final" / "README.md").read_text()
    return text


def program_of(text):
    (found,) = re.findall(r"^(`{3,})python\n(.*?)\n\1$", text, re.DOTALL | re.MULTILINE)
    return found[1]


def test_every_line_is_a_fact_of_the_run(tmp_path):
    text = written(tmp_path)
    assert (tmp_path / "final" / "samples.png").read_bytes() == b"png"
    for fact in (
        "| f1@0.5 | 0.250 [0.200, 0.300] | 0.500 [0.450, 0.550] | 10 |",
        "steps: 1,200, seed 3, 2.0 hours on 8 x NVIDIA H100",
        "SHA-256 of `a|b.jsonl`: ff00",
        "- 1 of 10 completions could not be read as an answer and count as wrong.",
        "constant_reward (grpo step 7)",
        "pixels of the image as the processor resizes it",
        "- command: `vlrl/train.py --task detection`",
    ):
        assert fact in text
    assert "[cat]" not in text
    assert "None" not in text
    assert "drawn scenes" not in text
    program = ast.parse(program_of(text))
    assert "'image1.png', 'image2.png'" in ast.unparse(program)


def test_the_hub_takes_its_metadata(tmp_path):
    card = ModelCard(written(tmp_path))
    assert (card.data.base_model, card.data.pipeline_tag, card.data.library_name) == (
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "image-text-to-text",
        "transformers",
    )
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [("f1@0.5", 0.5)]
    for local in ("tiny", str(tmp_path / "start"), "runs/x/sft/final"):
        assert ModelCard(written(tmp_path, model=local)).data.base_model is None
    write_draft(tmp_path, "Qwen/Qwen2.5-VL-3B-Instruct", 50)
    assert ModelCard.load(tmp_path / "README.md").data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert "not measured yet" in (tmp_path / "README.md").read_text()


HOSTILE = [
    "<script>alert(1)</script>",
    "---\nlicense: mit\n---",
    "```\n# no code\n```",
    "a | b `c` \\",
    "\x1b[31m\u202e",
    "é漢字\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_of_a_user_stays_text(tmp_path, text):
    example = {**SUMMARY["example"], "prompt": text, "system": text}
    whole = written(tmp_path, data=text, model=text, command=text, task=text, rewards=[text], example=example, hardware=text)
    assert whole.count("\n---\n") == 1 + whole.startswith("---\n---"), "one header"
    ModelCard(whole)
    tree = ast.parse(program_of(whole))
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert strings.count(text) == 2 or "\ud800" in text, "the prompt and the system message, unchanged"
    outside = re.sub(r"(`+) ?.*? ?\1", "", whole.replace(program_of(whole), ""), flags=re.DOTALL)
    assert "<script>" not in outside.partition("\n---\n")[2]
    assert "\x1b" not in whole
    assert "\u202e" not in whole


def test_markdown_of_a_text_is_escaped():
    assert cell("a|b <i> [x](y) _z_") == r"a\|b \<i\> \[x\](y) \_z\_"
    assert code("a ` b `` c") == "``` a ` b `` c ```"
    assert "images = None" in use({"prompt": "2+2", "n_images": 0, "max_new_tokens": 8}, None)
