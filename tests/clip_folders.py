"""Folders that look like CLIP models, without their weights."""

import json

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

START, END = "<|startoftext|>", "<|endoftext|>"


def folder_of(path, **config):
    """A folder that looks like a CLIP model whose tokens are letters, without its weights."""
    path.mkdir(parents=True, exist_ok=True)
    vocabulary = {START: 0, END: 1, **{chr(c): c for c in range(32, 127)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=[(START, 0), (END, 1)])
    tokenizer.enable_truncation(77)  # as published files have it
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"model_type": "clip", **config}))
    (path / "processor_config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")
    return str(path)
