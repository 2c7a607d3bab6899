"""What vLLM in the trainer's processes is handed, by the processors of every family; vLLM itself runs in `tests/engines`."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLProcessor,
    InternVLVideoProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from vlrl.models.names import ASSETS
from vlrl.models.pixel_limits import limit_pixels
from vlrl.models.tiny import embedded_processor
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.batch import Batch, Completion, Tensors
from vlrl.training.grpo.sampler_check import SamplerCheck
from vlrl.training.grpo.vllm_prompts import ColocatedPrompts, ImageBlock, what_differs
from vlrl.training.options import ConfigError
from vlrl.training.preflight import check_engine

TEMPLATE = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
)
LIMITS = {"min_pixels": 28 * 28, "max_pixels": 112 * 112}


def processor_of(family):
    """A processor of this family over the vocabulary of `tiny`, with the family's own tokens added."""
    tokenizer = embedded_processor("tiny").tokenizer
    if family == "tiny":
        return embedded_processor("tiny")
    if family == "qwen2_vl":
        template = TEMPLATE.format(image="<|vision_start|><|image_pad|><|vision_end|>")
        return Qwen2VLProcessor(
            Qwen2VLImageProcessor(**LIMITS), tokenizer, Qwen2VLVideoProcessor(**LIMITS), chat_template=template
        )
    if family == "qwen3_vl":
        template = TEMPLATE.format(image="<|vision_start|><|image_pad|><|vision_end|>")
        limits = {"min_pixels": 32 * 32, "max_pixels": 128 * 128, "patch_size": 16}
        return Qwen3VLProcessor(
            Qwen2VLImageProcessor(**limits), tokenizer, Qwen3VLVideoProcessor(**limits), chat_template=template
        )
    if family == "glm4v":
        names = ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
        tokenizer.add_special_tokens({"additional_special_tokens": names})
        template = TEMPLATE.format(image="<|begin_of_image|><|image|><|end_of_image|>")
        size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
        return Glm4vProcessor(Glm4vImageProcessor(size=size), tokenizer, Glm4vVideoProcessor(), chat_template=template)
    if family == "internvl":
        names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
        tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny", extra_special_tokens={**names, "video_token": "<video>"})
        images = GotOcr2ImageProcessor(size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4)
        template = TEMPLATE.format(image="<IMG_CONTEXT>\n")
        return InternVLProcessor(images, tokenizer, InternVLVideoProcessor(), image_seq_length=4, chat_template=template)
    template = TEMPLATE.format(image="<image>")
    return Idefics3Processor(Idefics3ImageProcessor(), tokenizer, image_seq_len=4, chat_template=template)


def both(processor, sizes):
    """A prompt with images of these sizes, as the trainer has it, and as vLLM expects it: the text alone."""
    content = [part for size in sizes for part in ({"type": "image"}, {"type": "text", "text": "and"})]
    words = [{"role": "user", "content": [*content, {"type": "text", "text": " hello"}]}]
    text = processor.apply_chat_template(words, tokenize=False)
    images = [Image.new("RGB", size) for size in sizes]
    shown = {"images": [images]} if images else {}
    long = processor(text=[text], add_special_tokens=False, **shown)["input_ids"][0]
    return list(long), list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("family", ["tiny", "qwen2_vl", "qwen3_vl", "glm4v", "internvl"])
@pytest.mark.parametrize("sizes", [[], [(64, 64)], [(56, 112), (112, 56), (30, 40)]], ids=["text", "one", "three"])
def test_runs_become_what_the_processor_began_with(family, sizes):
    processor = processor_of(family)
    long, short = both(processor, sizes)
    assert (len(long) > len(short)) == bool(sizes)
    assert ImageBlock.of(processor).collapsed(long, len(sizes)) == short


@pytest.mark.parametrize("family", ["tiny", "glm4v"])
def test_images_of_one_token(family):
    processor = processor_of(family)
    limit_pixels(processor, 28 * 28, 28 * 28)
    long, short = both(processor, [(28, 28), (50, 50)])
    assert long == short
    assert ImageBlock.of(processor).collapsed(long, 2) == short


def test_a_family_that_writes_tiles_is_refused(tmp_path):
    colocate, served = (SimpleNamespace(use_vllm=True, vllm_mode=mode) for mode in ("colocate", "server"))
    smol = SimpleNamespace(processor=processor_of("idefics3"), name="smol")
    why = "cannot be used with smol: its processor writes an image as several"
    with pytest.raises(ConfigError, match=f"--vllm_mode colocate {why}"):
        check_engine(smol, colocate, None, tmp_path)
    with pytest.raises(ConfigError, match=f"--vllm_weight_transport files {why}.*; use --vllm_weight_transport nccl"):
        check_engine(smol, served, tmp_path / "weights", tmp_path)
    check_engine(smol, served, None, tmp_path)
    check_engine(SimpleNamespace(processor=processor_of("tiny"), name="tiny"), colocate, None, tmp_path)


def test_images_without_a_run_of_their_own_are_refused():
    block = ImageBlock(7, (7,))
    assert block.collapsed([1, 7, 7, 2, 7, 3], 2) == [1, 7, 2, 7, 3]
    with pytest.raises(RunStopped, match="1 runs of image tokens for 2 images"):
        block.collapsed([1, 7, 7, 3], 2)


class Llm:
    """What of vLLM's own object is used: it keeps the settings of the image processor that come with each prompt."""

    def __init__(self):
        self.settings, self.n_forgotten = [], 0
        self.llm_engine = SimpleNamespace(reset_encoder_cache=self.forget)

    def forget(self):
        self.n_forgotten += 1

    def generate(self, rows):
        self.settings += [row.get("mm_processor_kwargs") for row in rows]


class Vllm:
    """In the place of TRL's: expands placeholders as vLLM does, and answers with what it was handed."""

    tensor_parallel_size = 1

    def __init__(self, block, run=4):
        self.block, self.run, self.generation_kwargs = block, run, {"seed": 1}
        self.seen, self.llm = [], Llm()

    def generate(self, prompts, images, num_generations, profiler=None):
        n = self.generation_kwargs.get("n", 1)
        self.seen.append((prompts, images, n))
        self.llm.generate([{"multi_modal_data": one} if one else {} for one in images or [None] * len(prompts)])
        read = [[token for one in ids for token in ([one] * self.run if one == 7 else [one])] for ids in prompts]
        return read, [[row, i] for row in range(len(prompts)) for i in range(n)], None, None


def colocated(**options):
    made = ColocatedPrompts.__new__(ColocatedPrompts)
    made.block, made.settings = ImageBlock(7, (7,)), {"size": {"shortest_edge": 1, "longest_edge": 9}}
    made.vllm = Vllm(made.block, **options)
    return made


def test_a_group_is_handed_over_once():
    """In the order of the rows, with so many completions of each; the prompts that come back are the trainer's."""
    here, image = colocated(), Image.new("RGB", (2, 2))
    rows = [[1, 7, 7, 7, 7, 2]] * 3 + [[3]] * 3
    with here.in_place():
        prompts, ids, *_ = here.vllm.generate(prompts=rows, images=[[image]] * 3 + [None] * 3, num_generations=3)
    assert here.vllm.seen == [([[1, 7, 2], [3]], [[image], None], 3)]
    assert ids == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert prompts == rows
    assert here.vllm.llm.settings == [{"size": {"shortest_edge": 1, "longest_edge": 9}}, None]
    assert here.vllm.generation_kwargs == {"seed": 1}


@pytest.mark.parametrize("parallel", [1, 2])
def test_rows_that_are_no_groups_stay_single(parallel):
    here = colocated()
    here.vllm.tensor_parallel_size = parallel
    rows = [[1, 2]] * 2 + [[3]] * (2 if parallel > 1 else 1)
    with here.in_place():
        _, ids, *_ = here.vllm.generate(prompts=rows, images=None, num_generations=2)
    assert here.vllm.seen == [(rows, None, 1)]
    assert len(ids) == len(rows)


def test_an_engine_that_read_another_prompt_ends_the_run():
    here = colocated(run=5)
    with here.in_place(), pytest.raises(RunStopped, match="read 7 prompt tokens, the trainer has 6; image tokens 5 and 4"):
        here.vllm.generate(prompts=[[1, 7, 7, 7, 7, 2]], images=[["image"]], num_generations=1)
    assert (
        what_differs([1, 2], [1, 3, 3])
        == "the engine read 2 prompt tokens, the trainer has 3; the first difference is at token 1"
    )


# -- the first generation, scored by the trainer ---------------------------------------------------------------------------------


def batch(sampler, ours, mask=((1, 1), (1, 0))):
    made = [torch.tensor(mask), torch.zeros(2, 1), torch.tensor(1.0)]
    ids = torch.zeros(2, 2, dtype=torch.long)
    tensors = Tensors(
        ids,
        ids + 1,
        ids,
        made[0],
        made[1],
        made[2],
        None if ours is None else torch.tensor(ours),
        sampler_logps_BT=torch.tensor(sampler),
    )
    return Batch((), (Completion([1, 9, 9], [2]), Completion([1, 9], [2])), tensors=tensors)


def check(bound=0.2, scored=None, **args):
    values = {
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "vllm_structured_outputs_regex": None,
        "generation_kwargs": {"logit_bias": {}},
        "per_device_train_batch_size": 2,
        **args,
    }
    policy = SimpleNamespace(config=SimpleNamespace(image_token_id=9), dtype=torch.float32)
    calls = []

    def logprobs(*words, **fields):
        calls.append(words)
        return torch.tensor(scored), None, None

    engine = SimpleNamespace(args=SimpleNamespace(**values), policy=policy, model=None)
    made = SamplerCheck(engine, logprobs, bound, "bfloat16")
    made.calls = calls
    return made


def test_rounding_passes_and_costs_no_pass():
    """What is masked, and tokens that vLLM could not score, count for nothing."""
    one = check()
    one(batch([[-1.0, float("nan")], [-2.0, -50.0]], [[-1.1, -9.0], [-2.1, -1.0]]))
    assert one.calls == []


@pytest.mark.parametrize("ours", [-5.0, float("nan")])
def test_what_is_above_the_bound_ends_the_run(ours):
    said = (
        "3 tokens of the first generation .* 2 to 3 tokens, 1 to 2 of them image tokens; numbers are float32 here and bfloat16"
    )
    with pytest.raises(RunStopped, match=f"{said}.*--top_p 0.5 may change"):
        check(top_p=0.5)(batch([[-1.0, -1.0], [-1.0, -1.0]], [[-1.0, ours], [-1.0, -1.0]]))


def test_only_the_first_generation_is_scored_and_only_where_nobody_did():
    one = check(scored=[[-1.0, -1.0], [-1.0, -1.0]])
    same = [[-1.0, -1.0], [-1.0, -1.0]]
    one(batch(same, None))
    one(batch([[-9.0, -9.0], [-9.0, -9.0]], None))
    assert len(one.calls) == 1
    with pytest.raises(RunStopped):
        check(scored=same)(batch([[-9.0, -9.0], [-9.0, -9.0]], None))
