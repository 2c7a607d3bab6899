"""Masks of boxes: by a small random segmenter, from a file, and the numbers they give by hand."""

import json

import pytest
from PIL import Image, ImageDraw

from vlrl.bench import main, parse_command
from vlrl.bench.masks import encoded, read_masks
from vlrl.bench.suites import load_suite
from vlrl.metrics.grounding import rasterised
from vlrl.schema import Prediction, SampleError

OUTLINE = [[10, 10], [30, 10], [30, 30], [10, 30]]


@pytest.fixture
def data(tmp_path):
    """Two instructions about one image, with the true outline."""
    image = Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(image).rectangle([10, 10, 29, 29], fill="red")
    image.save(tmp_path / "a.png")
    row = {"task": "grounding", "images": ["a.png"], "question": "the red one", "answer": {"bbox_2d": [10, 10, 30, 30]}}
    meta = {"image_size": [64, 48], "polygons": [OUTLINE]}
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"id": f"g{i}", **row, "meta": meta}) + "\n" for i in range(2)))
    return tmp_path


def suite_of(folder, *flags):
    words = ["run", "--task", "grounding", "--data", str(folder / "data.jsonl"), "--output_path", str(folder / "o")]
    return load_suite(parse_command([*words, *map(str, flags)]))


def answers(samples, *texts):
    lay = "<think>t</think><answer>{}</answer>".format
    return {s.id: Prediction(s.id, lay(text), 1, False) for s, text in zip(samples, texts, strict=True)}


BOX = '{"bbox_2d": [10, 10, 30, 30]}'


def mask_file(folder, *masks):
    rows = [{"id": key, "box_px": box, "mask": encoded(mask)} for key, box, mask in masks]
    (folder / "masks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "masks.jsonl"


@pytest.mark.quick
def test_giou_and_ciou_of_masks_by_hand(data):
    half = rasterised([[10, 10, 20, 10, 20, 30, 10, 30]], 64, 48)
    file = mask_file(data, ("g0", [10, 10, 30, 30], half))
    suite = suite_of(data, "--masks", file)
    samples = suite.stages[0]({})
    one = suite.score(samples, answers(samples, BOX, "no box"))[0]
    assert one.metrics["giou"].value == pytest.approx((200 / 400 + 0) / 2)
    assert one.metrics["ciou"].value == pytest.approx(200 / 800)
    assert "1 of 2 answers have a box" in one.label
    assert "giou_of_boxes" not in one.metrics
    (data / "again").mkdir()
    suite.publish({}, data / "again", {}, [])
    assert read_masks(data / "again" / "masks.jsonl") == read_masks(file)


@pytest.mark.quick
def test_without_masks_the_boxes_stand_under_a_name_of_their_own(data):
    suite = suite_of(data)
    samples = suite.stages[0]({})
    found = suite.score(samples, answers(samples, '{"bbox_2d": [10, 10, 30, 50]}', "no box"))[0].metrics
    # the box is cut at the image's edge: 20 x 38 pixels, of which 20 x 20 are true
    assert found["giou_of_boxes"].value == pytest.approx((400 / 760 + 0) / 2)
    assert found["ciou_of_boxes"].value == pytest.approx(400 / (760 + 400))
    assert not {"giou", "ciou"} & set(found)


@pytest.mark.quick
def test_what_cannot_be_used_is_refused_before_anything_is_asked(data):
    half = rasterised([[10, 10, 20, 10, 20, 30, 10, 30]], 64, 48)
    suite = suite_of(data, "--masks", mask_file(data, ("g0", [1, 1, 3, 3], half)))
    samples = suite.stages[0]({})
    with pytest.raises(
        SampleError, match=r"sample 'g0' has the box \[10.0, 10.0, 30.0, 30.0\], the file a mask of \[1, 1, 3, 3\]"
    ):
        suite.score(samples, answers(samples, BOX, "no box"))
    with pytest.raises(ValueError, match="give sam:FOLDER, a segmenter"):
        suite_of(data, "--masks", "nowhere.jsonl")
    with pytest.raises(ValueError, match="give sam:FOLDER, a segmenter"):
        suite_of(data, "--masks", "sam:")
    (data / "data.jsonl").write_text((data / "data.jsonl").read_text().replace('"polygons"', '"outline"'))
    with pytest.raises(ValueError, match=r"no sample has meta\.polygons"):
        suite_of(data, "--masks", "sam:anything")
    assert main(["run", "--task", "qa", "--limit", "1", "--masks", "sam:x", "--output_path", str(data / "o")]) == 2


def small_segmenter(folder, kind):
    """A random promptable segmenter with its processor, as its folder on the hub would hold it."""
    import torch
    from transformers import Sam2Config, Sam2Model, Sam2Processor, SamConfig, SamModel, SamProcessor
    from transformers.models.sam.image_processing_sam import SamImageProcessor
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    torch.manual_seed(0)
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    prompt = {"hidden_size": 32, "patch_size": 16, "mask_input_channels": 8}
    if kind == "sam":
        vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
                  "patch_size": 16, "global_attn_indexes": [0], "window_size": 2, "mlp_dim": 32, "num_pos_feats": 16}  # fmt: skip
        prompt["image_size"] = 64
        config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        SamModel(config).save_pretrained(folder)
        SamProcessor(SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})).save_pretrained(folder)
        return
    backbone = {"hidden_size": 12, "embed_dim_per_stage": [12, 24, 48, 96], "num_attention_heads_per_stage": [1, 2, 4, 8],
                "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3], "image_size": [128, 128],
                "model_type": "sam2_hiera_det_model"}  # fmt: skip
    vision = {"backbone_config": backbone, "backbone_channel_list": [96, 48, 24, 12], "fpn_hidden_size": 32,
              "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]]}  # fmt: skip
    prompt["image_size"] = 128
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    Sam2Model(config).save_pretrained(folder)
    Sam2Processor(Sam2ImageProcessor(size={"height": 128, "width": 128})).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_a_segmenter_makes_a_mask_of_each_box(data, kind):
    small_segmenter(data / "segmenter", kind)
    suite = suite_of(data, "--masks", f"sam:{data / 'segmenter'}")
    samples = suite.stages[0]({})
    one = suite.score(samples, answers(samples, BOX, "no box"))[0]
    assert one.metrics["giou"].n == 2
    suite.publish({}, data, {}, [])
    made = read_masks(data / "masks.jsonl")
    assert list(made) == ["g0"]
    assert (made["g0"][0], made["g0"][1]["size"]) == ([10, 10, 30, 30], [48, 64])
    again = suite_of(data, "--masks", data / "masks.jsonl").score(samples, answers(samples, BOX, "no box"))[0]
    assert again.metrics["giou"] == one.metrics["giou"]


def test_a_folder_without_a_segmenter_is_one_line(data):
    suite = suite_of(data, "--masks", f"sam:{data}")
    samples = suite.stages[0]({})
    with pytest.raises(ValueError, match="cannot be loaded"):
        suite.score(samples, answers(samples, BOX, "no box"))
