"""A folder with a generative judge that replies 0 or 1, each as likely, to whatever it is asked: the bundled model with weights
set by hand. Its layers add nothing, so that a token follows from the one before it."""

import torch

from vlrl.models.load import load_model, save_model


def judge_folder(folder, mute=False):
    """`mute`: it ends at once, without a number."""
    loaded = load_model("tiny")
    model, token = loaded.model, loaded.tokenizer.convert_tokens_to_ids
    (newline,) = loaded.tokenizer("\n", add_special_tokens=False).input_ids
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        embedding = model.get_input_embeddings().weight
        embedding.zero_()
        # A logit is the product of two embeddings, weighed by the norm: what ends a prompt (a newline) leads to the numbers,
        # the numbers to the end and not to themselves.
        embedding[newline, 0 if not mute else 1] = 1.0
        embedding[[token("0"), token("1")], 0:3] = torch.tensor([3.0, 3.0, 18**0.5])
        embedding[loaded.tokenizer.eos_token_id, 1] = 8.0
        norm = model.get_parameter("model.language_model.norm.weight")
        norm.zero_()
        norm[:3] = torch.tensor([1.0, 1.0, -1.0])
    save_model(model, loaded.processor, folder)
    return str(folder)
