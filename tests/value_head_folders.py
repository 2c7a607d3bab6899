"""Folders that look like reward models, without their weights."""

import json

import numpy as np
from safetensors.numpy import save_file

from vlrl.data.value_head_files import HEAD_CONFIG, HEAD_WEIGHTS


def head_folder(folder, width=8, outputs=1, model_width=8, **facts):
    """A folder with a value head of `outputs` x `width`, beside a model of `model_width`."""
    folder.mkdir(parents=True, exist_ok=True)
    head = {"weight": np.zeros((outputs, width), np.float32), "bias": np.zeros(outputs, np.float32)}
    save_file(head, folder / HEAD_WEIGHTS)
    (folder / HEAD_CONFIG).write_text(json.dumps({"format": 1, "hidden_size": width, **facts}))
    (folder / "config.json").write_text(json.dumps({"text_config": {"hidden_size": model_width}}))
    return str(folder)
