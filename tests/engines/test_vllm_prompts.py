"""The prompts that vLLM makes of ours, by its own processor of each family; and whether TRL still hands them over expanded."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from PIL import Image
from test_grpo_vllm_prompts import both, processor_of
from torch.nn import Linear

from vlrl.models.pixel_limits import limit_pixels
from vlrl.training.grpo.vllm_prompts import ColocatedPrompts

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed; tests/engines/install.sh makes an environment with it"
    ),
    pytest.mark.usefixtures("vllm_alone"),
]
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64}


def config_of(family, tokenizer):
    """A small configuration of this family, as a hub model would have it."""
    import transformers

    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        }.items()
    }
    text = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": ROPE}
    if family == "qwen2_vl":
        kind, values = "Qwen2VL", {"text_config": text, "vision_config": {**VISION, "embed_dim": 32}, **ids}
    elif family == "qwen3_vl":
        vision = {**VISION, "patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        kind, values = "Qwen3VL", {"text_config": {**text, "head_dim": 16}, "vision_config": vision, **ids}
    elif family == "glm4v":
        names = {
            "image_token_id": "<|image|>",
            "video_token_id": "<|video|>",
            "image_start_token_id": "<|begin_of_image|>",
            "image_end_token_id": "<|end_of_image|>",
            "video_start_token_id": "<|begin_of_video|>",
            "video_end_token_id": "<|end_of_video|>",
        }
        own = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
        kind, values = "Glm4v", {"text_config": text, "vision_config": VISION, **own}
    else:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [56, 56],
            "patch_size": [14, 14],
        }
        values = {
            "text_config": {**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
            "vision_config": vision,
            "image_seq_length": 4,
        }
        kind, values = "InternVL", {**values, "image_token_id": tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")}
    made = getattr(transformers, f"{kind}Config")(**values)
    made.architectures = [f"{kind}ForConditionalGeneration"]
    return made


@pytest.fixture(scope="module", params=["tiny", "qwen2_vl", "qwen3_vl", "glm4v", "internvl"])
def family(request, tmp_path_factory, tiny_folder, vllm_settings):
    """Our processor, and vLLM's for the same folder."""
    from vllm.config import ModelConfig
    from vllm.model_executor.models import registry
    from vllm.multimodal import MULTIMODAL_REGISTRY

    registry._run_in_subprocess = lambda look: look()  # a process for each family takes longer than all else here
    processor = processor_of(request.param)
    folder = tiny_folder
    if request.param != "tiny":
        folder = tmp_path_factory.mktemp(request.param)
        config_of(request.param, processor.tokenizer).save_pretrained(folder)
        processor.save_pretrained(folder)
    config = ModelConfig(model=str(folder), max_model_len=1024, dtype="float32")
    return processor, MULTIMODAL_REGISTRY.create_processor(config)


def read(theirs, ids, sizes, **settings):
    """What vLLM makes of a prompt with images of these sizes."""
    from vllm.multimodal.processing import ProcessorInputs, TimingContext

    images = [Image.new("RGB", size) for size in sizes]
    items = theirs.info.parse_mm_data({"image": images} if images else {})
    return list(
        theirs.apply(ProcessorInputs(list(ids), items, hf_processor_mm_kwargs=settings), TimingContext())["prompt_token_ids"]
    )


@pytest.mark.parametrize("sizes", [[(64, 64)], [(56, 112), (112, 56), (30, 40)]], ids=["one", "three"])
def test_vllm_reads_the_prompt_that_is_trained_on(family, sizes):
    processor, theirs = family
    ours = ColocatedPrompts(processor)
    long, _ = both(processor, sizes)
    assert read(theirs, ours.block.collapsed(long, len(sizes)), sizes, **ours.settings) == long
    assert len(read(theirs, long, sizes, **ours.settings)) > len(long), "as TRL would have handed it over"


def test_limits_of_a_run_reach_vllm(family):
    """`--max_pixels` changes the processor of the run; vLLM has read its own from the model's folder."""
    processor, theirs = family
    if "longest_edge" not in processor.image_processor.size:
        pytest.skip("images of this family have no limits")
    before, sizes = processor.image_processor.size, [(112, 112)]
    try:
        limit_pixels(processor, 28 * 28, 32 * 32)
        ours = ColocatedPrompts(processor)
        long, _ = both(processor, sizes)
    finally:
        processor.image_processor.size = before
    short = ours.block.collapsed(long, 1)
    assert read(theirs, short, sizes, **ours.settings) == long
    assert read(theirs, short, sizes) != long


def test_trl_does_not_collapse_them_itself(monkeypatch):
    """Where this fails, TRL hands vLLM placeholders by itself: `vlrl/training/grpo/vllm_prompts.py` is to go then."""
    from trl.generation import vllm_generation

    seen = []
    output = SimpleNamespace(prompt_token_ids=[1], outputs=[SimpleNamespace(token_ids=[2], logprobs=None)])
    llm = SimpleNamespace(generate=lambda prompts, **_: seen.extend(prompts) or [output])
    ours = SimpleNamespace(
        accelerator=None, mode="colocate", llm=llm, tensor_parallel_size=1, enable_sleep_mode=False, model=Linear(1, 1), logprobs=0,
        temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, max_completion_length=2, generation_kwargs={},
        structured_outputs_regex=None,
    )  # fmt: skip
    vllm_generation.VLLMGeneration.generate(ours, [[1, 7, 7, 7]], [["image"]], 1)
    assert [row["prompt_token_ids"] for row in seen] == [[1, 7, 7, 7]]
