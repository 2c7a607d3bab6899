"""The activations that the memory estimate counts are those that autograd keeps: measured on the packed pass of `small`."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from trl.trainer.utils import add_fused_lm_head

from vlrl import bench
from vlrl.bench.speed import check
from vlrl.bench.speed.command import arguments, case_of
from vlrl.bench.speed.memory import job_of_case, sizes_of_case
from vlrl.bench.speed.models import speed_model
from vlrl.bench.speed.plan import Setting
from vlrl.models.memory import estimate
from vlrl.models.prefix_sharing.attention import use_attention
from vlrl.models.prefix_sharing.step import Sharing
from vlrl.models.vision_encoder import with_targets

WORDS = [
    "--model",
    "small",
    "--image_size",
    "224",
    "--group",
    "4",
    "--completion_tokens",
    "24",
    "--prompts",
    "1",
    "--device",
    "cpu",
]


def kept_bytes(model, run):
    """What one forward pass keeps for its backward pass, each storage once, the weights not."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.numel():
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor keeps its place in memory from being used again
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        made = run()
    assert made.requires_grad
    return sum(n for n, _ in seen.values())


def of_forward(sizes, job):
    """The estimate's activations without what only the backward pass takes: the head's and the layers' working space, and with
    checkpointing one layer of each stack."""
    left = estimate(sizes, job).activations
    n = job.rows * job.completion_tokens
    left -= n * (4 * sizes.text.hidden + sizes.vocab * 4) + (4 * sizes.vocab * sizes.text.hidden if job.tuning == "full" else 0)
    patches = job.image_tokens * sizes.patches_per_token
    columns = job.prompt_length + job.rows * job.completion_tokens
    for stack, tokens, dense_keys in ((sizes.text, job.text_tokens, columns), (sizes.vision, patches, 0)):
        left -= tokens * stack.working_bytes(job)
        left -= tokens * stack.kept_bytes(job, dense_keys=dense_keys) if job.checkpointing else 0
    return left


def test_activations_are_what_autograd_keeps():
    case = case_of(arguments(WORDS))
    loaded = speed_model("small", torch.device("cpu"), torch.float32, 0)
    model = loaded.model.train()
    add_fused_lm_head(model)
    use_attention(model)
    sharing = Sharing("mask", False, False, False, nullcontext)
    ids_BT, plan = check._batch(case, loaded, sharing)
    n_keep = case.completion_tokens

    def measured(model):
        return kept_bytes(model, lambda: sharing.logps(model, ids_BT, torch.ones_like(ids_BT), n_keep, plan, entropy=False)[0])

    found = {"full": measured(model)}
    model.gradient_checkpointing_enable()
    found["full, checkpointing"] = measured(model)
    model.gradient_checkpointing_disable()
    from peft import LoraConfig, get_peft_model

    found["lora"] = measured(get_peft_model(model, with_targets(LoraConfig(r=16, target_modules="all-linear"), False)))
    sizes = sizes_of_case(case)
    job = job_of_case(case, Setting("vlrl"), ids_BT.shape[1] - n_keep, sizes)
    jobs = {"full": job, "full, checkpointing": replace(job, checkpointing=True), "lora": replace(job, tuning="lora")}
    for name, bytes_kept in found.items():
        assert of_forward(sizes, jobs[name]) == pytest.approx(bytes_kept, rel=0.15), name


@pytest.mark.long
def test_the_peak_of_a_step_is_the_estimated_one(tmp_path):
    """A real step of the trainer in a process of its own: resident memory at the peak less what was there before the model."""
    out = tmp_path / "memory.json"
    words = ["--what", "memory", "--image_size", "224", "--group", "4", "--completion_tokens", "16", "--json", str(out)]
    args = bench.parse_command(["speed", *words])
    assert args.run(args) == 0, "off by more than 15 %"
    assert json.loads(out.read_text())["peaks"]["update"] > 2**29
