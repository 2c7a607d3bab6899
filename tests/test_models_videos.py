"""Videos as videos: what a processor is handed, how many tokens it takes, and that all passes compute what transformers does on
the same file with the processor called by hand."""

from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from family_models import build
from PIL import Image
from qwen_vl_utils import vision_process
from test_prefix_families import assert_same
from transformers import GenerationConfig
from trl.trainer.utils import add_fused_lm_head

from vlrl.data.images import FrameChoice, FramesTaken, ImageError, Video, frames_taken, open_video
from vlrl.models.inputs import Samples as Rows
from vlrl.models.inputs import dataset, measured, messages, n_shown, prepare_sample
from vlrl.models.load import ModelInputs
from vlrl.models.pixel_limits import limit_pixels
from vlrl.models.prefix_sharing import rollout as shared_rollout
from vlrl.models.prefix_sharing.facts import why_not
from vlrl.models.prefix_sharing.groups import NotShared, encode
from vlrl.models.prefix_sharing.image_rows import PER_TOKEN
from vlrl.models.prefix_sharing.logprobs import group_logps
from vlrl.models.prefix_sharing.row_plans import plan_rows
from vlrl.models.prefix_sharing.step import BatchPlan, Sharing, split_prompts
from vlrl.models.prompt_lengths import PromptLengths
from vlrl.models.videos import (
    VIDEO_MODELS,
    VideoReading,
    open_shown,
    tokenized,
    video_arguments,
    video_grid,
    video_input_size_px,
    with_contents,
)
from vlrl.schema import Sample, SampleError
from vlrl.tasks import TASKS
from vlrl.training.grpo.mixed_modality import logps_of_mixed_rows

G, N = 2, 6
LENGTHS = (6, 2, 5, 6, 1, 4, 3, 6)
FPS = 2.0


def film(path, n, fps, size=(96, 64), seed=0):
    """A video of moving noise, no two frames alike."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 255, (n, size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for frame in small.repeat(8, axis=1).repeat(8, axis=2):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        out.mux(stream.encode())
    return str(path)


def folder(path, n, size=(60, 40), seed=1):
    draw = np.random.default_rng(seed)
    path.mkdir()
    for i in range(n):
        pixels = draw.integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        Image.fromarray(pixels).save(path / f"{i:03d}.png")
    return str(path)


@pytest.fixture(scope="module")
def shown_rows(tmp_path_factory):
    """Samples that show a long film of few frames a second, a folder of frames, two images, and nothing."""
    where = tmp_path_factory.mktemp("videos")
    images = []
    for i, size in enumerate([(64, 48), (48, 80)]):
        images.append(str(where / f"{i}.png"))
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(images[-1])
    return [
        Sample("film", "qa", "What is 1 + 1?", 2, video=film(where / "a.mp4", 40, 1), meta={"video_frames": 8}),
        Sample("folder", "qa", "Where is the dog in this?", 2, video=folder(where / "frames", 5)),
        Sample("images", "qa", "Which of both is red?", 2, images=tuple(images)),
        Sample("text", "qa", "How many are 3 and 4?", 7),
    ]


@pytest.fixture(scope="module", params=VIDEO_MODELS)
def made(request, shown_rows):
    """A family's model, what is known of it, the samples prepared for it, their prompts and the plan of them."""
    model, processor = build(request.param)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    inputs = ModelInputs(processor, model.config, request.param, "px", "")
    samples = [prepare_sample(sample, inputs) for sample in shown_rows]
    prompts = []
    for sample in samples:
        shown = open_shown(sample)
        words = with_contents(messages(sample, TASKS, len(shown)), shown)
        prompts += split_prompts(*tokenized(processor, [words], {}))
    return model, inputs, samples, prompts, Sharing("mask", False, False, False).plan(model, prompts, G, torch.device("cpu"))


def by_hand(sample, processor):
    """The processor's own tensors of a sample: frames and metadata as `qwen_vl_utils` reads them, sampled once."""
    text = processor.apply_chat_template(
        messages(sample, TASKS, len(sample.images)), add_generation_prompt=True, tokenize=False
    )
    given = {}
    if sample.id == "film":
        wanted = {"video": sample.video, "fps": FPS, "min_frames": 2, "max_frames": 8}
        frames, metadata, _ = vision_process.VIDEO_READER_BACKENDS["decord"](wanted)
        given = {"videos": [frames], "video_metadata": [dict(metadata)]}
    elif sample.id == "folder":
        frames = [Image.open(f"{sample.video}/{i:03d}.png").convert("RGB") for i in range(5)]
        metadata = {"fps": FPS, "frames_indices": list(range(5)), "total_num_frames": 5}
        given = {"videos": [frames], "video_metadata": [metadata]}
    elif sample.images:
        given = {"images": [Image.open(path).convert("RGB") for path in sample.images]}
    if "videos" in given:
        given |= {"do_sample_frames": False, "cap_pixels_per_frame": True}
    return processor(text=[text], return_tensors="pt", **given)


def rows(prompts, pad):
    """Ids and mask of TRL's padded layout, with random completions."""
    longest = max(len(prompt.ids) for prompt in prompts)
    draw = torch.Generator().manual_seed(3)
    ids, mask = [], []
    for number, prompt in enumerate(prompts):
        for g in range(G):
            n, empty = LENGTHS[number * G + g], longest - len(prompt.ids)
            text = torch.randint(300, 900, (N,), generator=draw).tolist()[:n]
            ids.append([pad] * empty + prompt.ids + text + [pad] * (N - n))
            mask.append([0] * empty + [1] * (len(prompt.ids) + n) + [0] * (N - n))
    return torch.tensor(ids), torch.tensor(mask)


def official(made):
    """Log-probabilities of every completion by a plain forward of its row alone, on the processor's own tensors."""
    model, inputs, samples, prompts, _ = made
    ids, _ = rows(prompts, inputs.tokenizer.pad_token_id)
    found = []
    for number, sample in enumerate(samples):
        seen = by_hand(sample, inputs.processor)
        assert seen["input_ids"][0].tolist() == prompts[number].ids
        for g in range(G):
            n = LENGTHS[number * G + g]
            row = {name: value for name, value in seen.items() if name not in ("input_ids", "attention_mask")}
            completion = ids[number * G + g, -N:][None, :n]
            row["mm_token_type_ids"] = torch.cat([seen["mm_token_type_ids"], torch.zeros(1, n, dtype=torch.long)], 1)
            whole = torch.cat([seen["input_ids"], completion], 1)
            logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), **row).logits[0, -n - 1 : -1]
            logps = logits.log_softmax(-1).gather(1, completion[0][:, None])[:, 0]
            found.append(torch.cat([logps, logps.new_zeros(N - n)]))
    return torch.stack(found)


def packed(made, ids, mask, plan=None, **options):
    plan = plan or made[4]
    return group_logps(made[0], ids, mask, N, plan.groups, plan.image_batch, **options)[0]


def test_log_probabilities_and_gradients_are_those_of_transformers(made):
    model, inputs, _, prompts, _ = made
    if why_not(model):
        pytest.skip("it shares no prompts")
    ids, mask = rows(prompts, inputs.tokenizer.pad_token_id)
    model.train()
    moved = assert_same(model, official(made), packed(made, ids, mask))
    assert any("visual" in one for one in moved)


def test_every_other_pass_agrees(made):
    """Micro-batches, features of a frozen encoder, and TRL's own layout, so many rows at a time and shared by none."""
    model, inputs, _, prompts, plan = made
    ids, mask = rows(prompts, inputs.tokenizer.pad_token_id)

    def trls(model, ids, mask, n_keep, batch_size, num_images=None, **fields):
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :-n_keep] = -100
        out = model(input_ids=ids, attention_mask=mask, **fields, labels=labels, fused_lm_head=True)
        return out.log_probs[:, -n_keep:], None, None

    model.eval()
    tokens = (model.config.image_token_id, model.config.video_token_id)
    with torch.no_grad():
        want = official(made)
        ready = BatchPlan(plan.groups, encode(model, plan.image_batch))
        for one in (plan, ready) if why_not(model) is None else ():
            for own, part in [(list(range(len(ids))), one), *one.parts([2, 0, 3, 1], 3)]:
                torch.testing.assert_close(packed(made, ids[own], mask[own], part), want[own], atol=1e-5, rtol=0)
        single = plan.of_single_rows([row // G for row in range(len(ids))])
        assert plan.shares
        assert not single.shares
        for one in (plan, single):
            fields = one.plain_fields(ids, *tokens)
            for size in (None, 3, 1):
                got = logps_of_mixed_rows(trls, model, ids, mask, N, size, **fields)[0] * mask[:, -N:]
                torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
        part_rows, images_only = plan.parts([2], 2)[0]
        fields = images_only.plain_fields(ids[part_rows], *tokens)
        assert "pixel_values_videos" not in fields
        got = logps_of_mixed_rows(trls, model, ids[part_rows], mask[part_rows], N, None, **fields)[0] * mask[part_rows, -N:]
        torch.testing.assert_close(got, want[part_rows], atol=1e-5, rtol=0)
    with pytest.raises(NotShared, match="videos that come without a plan"):
        plan_rows(model, ids, mask, N, plan.plain_fields(ids, *tokens))


def test_the_shared_rollout_says_the_tokens_of_generate(made):
    model, inputs, samples, prompts, plan = made
    if why_not(model):
        pytest.skip("it shares no prompts")
    ids, mask = (one[::G, :-N] for one in rows(prompts, inputs.tokenizer.pad_token_id))
    n_words = model.get_input_embeddings().weight.shape[0]
    config = GenerationConfig(
        max_new_tokens=8, do_sample=False, eos_token_id=inputs.tokenizer.eos_token_id, pad_token_id=inputs.tokenizer.pad_token_id,
        suppress_tokens=[*range(20), *range(1840, n_words)], repetition_penalty=3.0,
    )  # fmt: skip
    model.eval()
    got = shared_rollout.rollout(model, ids, mask, plan.groups, plan.image_batch, G, config, drop_every=3)
    said = set()
    for number, sample in enumerate(samples):
        seen = by_hand(sample, inputs.processor)
        want = model.generate(**seen, generation_config=config)[0, seen["input_ids"].shape[1] :].tolist()
        for g in range(G):
            assert got[number * G + g, ids.shape[1] :][: len(want)].tolist() == want
        said.add(tuple(want))
    assert len(said) > 2


def test_prompts_have_their_measured_lengths(made):
    _, inputs, samples, prompts, _ = made
    lengths = PromptLengths(inputs.processor)
    words = [messages(sample, TASKS, n_shown(sample)) for sample in samples]
    for one, sample in zip(words, samples, strict=True):
        lengths.add(one, measured(sample))
    assert lengths.longer_than(0, words.__getitem__) == {i: len(prompt.ids) for i, prompt in enumerate(prompts)}


def test_rows_of_the_training_set_hold_the_video(made):
    _, _, samples, _, _ = made
    row = dataset(Rows(len(samples), samples.__getitem__), TASKS)[0]
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["video", "text"]
    assert [type(one) for one in row["images"]] == [Video]
    assert samples[0].meta["image_size"] == [96, 64]


@pytest.mark.parametrize(("min_pixels", "max_pixels"), [(None, None), (None, 2000), (3136, None), (4096, 4096), (None, 50_000)])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_frames_are_as_large_as_counted(family, min_pixels, max_pixels):
    _, processor = build(family)
    limit_pixels(processor, min_pixels, max_pixels)
    for n, size in [(2, (96, 64)), (5, (60, 40)), (16, (320, 180)), (3, (40, 300)), (1, (64, 64))]:
        taken = FramesTaken(tuple(range(n)), n, 4.0, size)
        frames = (Image.new("RGB", size),) * max(2, n)
        video = Video(replace(taken, places=taken.places * (2 if n == 1 else 1)), frames)
        seen = processor.video_processor(
            video_arguments(processor, [video])["videos"],
            do_sample_frames=False,
            cap_pixels_per_frame=True,
            return_tensors="pt",
        )
        in_time, high, wide = seen["video_grid_thw"][0].tolist()
        assert video_grid(processor, video.taken) == (in_time, high, wide)
        patch = processor.video_processor.patch_size
        assert video_input_size_px(processor, taken) == (wide * patch, high * patch)
        # the processors round sizes up to the least, odd numbers of frames down, and keep the short side of thin ones
        if max_pixels and not min_pixels and n % 2 == 0 and max(size) < 5 * min(size):
            assert high * wide * patch**2 <= max_pixels, "of each frame"


def test_the_times_are_those_of_the_frames(shown_rows):
    """8 of 40 frames at one a second: every 39/7 s, whatever the processor samples at by itself, and whatever fps was asked."""
    _, processor = build("qwen3_vl")
    video = open_shown(prepare_sample(shown_rows[0], ModelInputs(processor, build("qwen3_vl")[0].config, "", "px", "")))[0]
    assert video.taken.places == (0, 6, 11, 17, 22, 28, 33, 39)
    (ids,), _, fields = tokenized(processor, [[{"role": "user", "content": [{"type": "video", "video": video}]}]], {})
    text = processor.tokenizer.decode(ids)
    assert [f"<{(a + b) / 2:.1f} seconds>" in text for a, b in ((0, 6), (11, 17), (22, 28), (33, 39))] == [True] * 4
    assert text.count("seconds>") == 4
    assert fields["video_grid_thw"][0, 0] == 4
    _, processor = build("qwen2_5_vl")
    _, _, fields = tokenized(processor, [[{"role": "user", "content": [{"type": "video", "video": video}]}]], {})
    torch.testing.assert_close(fields["second_per_grid_ts"], torch.tensor([2 / (8 / 40 * 1.0)]))


def test_a_folder_has_the_times_that_its_row_states(tmp_path):
    path = folder(tmp_path / "frames", 30)
    one = Sample("a", "qa", "what?", 1, video=path)
    assert frames_taken(path).places == tuple(round(i * 29 / 15) for i in range(16))
    choice = FrameChoice.of(replace(one, meta={"folder_fps": 10, "video_fps": 1, "video_frames": 8}))
    taken = frames_taken(path, choice)
    assert (taken.fps, taken.n_frames, taken.places) == (10, 30, (0, 29))
    assert open_video(path, choice).taken == taken
    wrong = [("video_fps", 0), ("video_fps", "2"), ("video_frames", 2.5), ("folder_fps", float("nan")), ("video_frames", True)]
    for name, value in wrong:
        with pytest.raises(SampleError, match=rf"id 'a': meta\.{name} is"):
            FrameChoice.of(replace(one, meta={name: value}))


def test_frames_of_a_file_are_known_before_it_is_opened(tmp_path):
    files = [(40, 1, FrameChoice()), (9, 3, FrameChoice()), (30, 10, FrameChoice(fps=1)), (7, 30, FrameChoice(at_most=5))]
    for n, fps, choice in files:
        path = film(tmp_path / f"{n}.mp4", n, fps)
        assert frames_taken(path, choice) == open_video(path, choice).taken


def test_who_takes_videos_and_what_the_others_are_shown(shown_rows, tmp_path):
    film_row = shown_rows[0]
    model, processor = build("qwen2_5_vl")
    known = {"processor": processor, "config": model.config, "name": "", "coords": "px", "coords_reason": ""}
    as_video = prepare_sample(film_row, ModelInputs(**known, videos=VideoReading(1.0, 4)))
    assert as_video.view.takes_video
    assert as_video.meta["video_frames"] == 8, "the row's own goes first"
    assert as_video.meta["video_fps"] == 1.0
    asked = prepare_sample(film_row, ModelInputs(**known, videos=VideoReading(as_frames="--video_as frames")))
    assert not asked.view.takes_video
    assert len(open_shown(asked)) == n_shown(asked) == 8
    assert all(isinstance(one, Image.Image) for one in open_shown(asked))
    assert "no place for a video" in ModelInputs(**{**known, "processor": build_without_place()}).why_frames
    other, their_processor = build("glm4v")
    assert "'glm4v' are not handed videos" in ModelInputs(their_processor, other.config, "", "px", "").why_frames
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"its frames are of 2 sizes \(9x8, 9x9 px\)"):
        open_shown(replace(as_video, video=str(tmp_path)))
    (tmp_path / "b.png").unlink()
    (single,) = open_shown(replace(as_video, video=str(tmp_path)))
    assert single.taken.places == (0, 0)
    assert len(single.frames) == 2


def build_without_place():
    _, processor = build("qwen2_5_vl")
    processor.chat_template = processor.chat_template.replace("<|vision_start|><|video_pad|><|vision_end|>", "")
    return processor


def test_what_a_processor_returns_per_token_is_no_field_of_a_prompt(made):
    assert all(not set(prompt.about) & set(PER_TOKEN) for prompt in made[3])
