"""Folders of published models without weights: their real config.json, and a processor whose tokenizer knows bytes only."""

from pathlib import Path

from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

from vlrl.bench.speed.models import IDS, byte_processor
from vlrl.models.published_shapes import PUBLISHED_MODELS

IMAGE_IDS = {
    "image_token_id": IDS["<|image_pad|>"],
    "video_token_id": IDS["<|video_pad|>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
}


def write_real_folder(name: str, folder: Path) -> Path:
    """A folder that `--dry_run` takes for the model."""
    config = PUBLISHED_MODELS[name].make_config()
    for key, value in IMAGE_IDS.items():
        setattr(config, key, value)
    config.save_pretrained(folder)
    processor = byte_processor()
    if config.model_type == "qwen3_vl":
        sizes = {"patch_size": 16, "merge_size": 2, "min_pixels": 65_536, "max_pixels": 16_777_216}
        processor = Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(**sizes),
            tokenizer=processor.tokenizer,
            video_processor=Qwen3VLVideoProcessor(),
            chat_template=processor.chat_template,
        )
    processor.save_pretrained(folder)
    return folder
