"""Damages to one small model folder, by name: what is done to a copy of it, and words of the one line that must come of it."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def copied(base: Path, to: Path) -> Path:
    """A copy whose files are links until they are damaged."""
    to.mkdir()
    for path in base.iterdir():
        if path.is_file():
            os.link(path, to / path.name)
    return to


def write(name, data):
    def damage(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)

    return damage


def cut(name, n):
    return lambda folder: write(name, (folder / name).read_bytes()[:n])(folder)


def lost(name):
    return lambda folder: (folder / name).unlink()


def settings(name, **values):
    def damage(folder):
        found = json.loads((folder / name).read_text()) | values
        write(name, json.dumps(found).encode())(folder)

    return damage


def weights(change):
    def damage(folder):
        state = load_file(folder / WEIGHTS)
        change(state)
        (folder / WEIGHTS).unlink()
        save_file(state, folder / WEIGHTS, {"format": "pt"})

    return damage


def first_matrix(state):
    return next(key for key in sorted(state) if "mlp.up_proj" in key)


def shorter(state):
    key = first_matrix(state)
    state[key] = state[key][:-1].contiguous()


def pickled(folder):
    (folder / WEIGHTS).unlink()
    torch.save({"a": torch.ones(2)}, folder / WEIGHTS)


def indexed(folder):
    (folder / WEIGHTS).unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def more_tokens(folder):
    found = json.loads((folder / "tokenizer.json").read_text())
    most = max(found["model"]["vocab"].values())
    found["model"]["vocab"] |= {f"zzz{i}": most + 40 + i for i in range(30)}
    write("tokenizer.json", json.dumps(found).encode())(folder)


def only_adapters(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text("{}")


def a_run(folder):
    shutil.copytree(folder, folder / "final")
    (folder / "config.json").unlink()


MODEL_DAMAGES = {
    "weights cut within the header": (
        cut(WEIGHTS, 5000),
        f"{WEIGHTS} is damaged: it is cut off within its header: 5,000 bytes",
    ),
    "weights without their last byte": (cut(WEIGHTS, -1), f"{WEIGHTS} is cut off: "),
    "empty weights": (write(WEIGHTS, b""), f"{WEIGHTS} is damaged: it is cut off: it has 0 bytes"),
    "no weights": (lost(WEIGHTS), "holds no weights: there is no model.safetensors"),
    "a pickle": (pickled, "is a pickle of PyTorch under the name of a safetensors file"),
    "an LFS pointer": (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "a web page": (write(WEIGHTS, b"<!DOCTYPE html>" * 20), "is no safetensors file"),
    "a header of garbage": (lambda f: write(WEIGHTS, (50).to_bytes(8, "little") + b"x" * 90)(f), "its header cannot be read"),
    "a weight missing": (weights(lambda state: state.pop(first_matrix(state))), "lacks 1 of the "),
    "a weight of another shape": (weights(shorter), "1 of its weights have other shapes than its config.json says"),
    "a shard missing": (indexed, "model-00001-of-00002.safetensors is missing"),
    "an empty config": (write("config.json", b""), "config.json is damaged: it is empty"),
    "half a config": (cut("config.json", 50), "config.json is damaged"),
    "a list for a config": (write("config.json", b"[]"), "config.json is damaged: it holds no JSON object"),
    "no config": (lost("config.json"), "is a folder without config.json"),
    "a run's folder": (a_run, "did you mean"),
    "adapters alone": (only_adapters, "holds adapters alone"),
    "an unknown architecture": (settings("config.json", model_type="nosuch"), "no model config could be read"),
    "a text model": (settings("config.json", model_type="llama"), "takes no images"),
    "other placeholders": (settings("config.json", image_token_id=3), "as token 6, its config.json as 3"),
    "half a tokenizer": (cut("tokenizer.json", 1000), "tokenizer.json is damaged"),
    "an empty tokenizer": (write("tokenizer.json", b"{}"), "its processor cannot be read"),
    "no tokenizer": (lost("tokenizer.json"), "has no tokenizer"),
    "no tokenizer settings": (lost("tokenizer_config.json"), "has no tokenizer settings: there is no tokenizer_config.json"),
    "more tokens than embeddings": (more_tokens, "30 tokens beyond the model's"),
    "no processor": (lost("processor_config.json"), "has no image processor"),
    "an empty processor": (write("processor_config.json", b"{}"), "its processor cannot be read"),
    "no chat template": (lost("chat_template.jinja"), "has no chat template"),
    "half a chat template": (write("chat_template.jinja", b"{% for x in %}"), "a prompt with an image cannot be made of it"),
    "a template without images": (
        write("chat_template.jinja", b"{{ messages[0]['content'][-1]['text'] }}"),
        "a prompt with an image cannot be made of it",
    ),
    "half of the generation settings": (cut("generation_config.json", 9), "generation_config.json is damaged"),
}
