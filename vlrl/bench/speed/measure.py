"""One side of `bench speed`: real optimizer steps of the real trainer, timed phase by phase, with what was run counted.

    preprocess   images decoded, prompts and images through the processor
    rollout      generation: rollout_prefill (prompts through the model), rollout_decode (the rest)
    old, ref     log-probability passes without gradient
    update       forward_backward and optimizer
    step         from the end of one optimizer step to the end of the next, not a sum

Not here: what is compared and written (`vlrl.bench.speed.command`).
"""

from __future__ import annotations

import gc
import math
import resource
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig

from vlrl.bench.speed.models import letter_score, speed_model, speed_task, write_images
from vlrl.bench.speed.plan import COUNTS, PHASES, Case, Setting
from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.prefix_sharing.facts import base_of
from vlrl.models.vision_encoder import ENCODER_NAMES
from vlrl.schema import Reward, Sample
from vlrl.training.grpo import Trainer
from vlrl.training.grpo.logprobs import Logprobs


class Clock:
    """Seconds, peaks of memory and counts by name; a phase inside itself counts once."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.open: set[str] = set()

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def phase(self, name: str, *, memory: bool = False) -> Iterator[None]:
        if name in self.open:
            yield
            return
        self.open.add(name)
        if memory:
            reset_peak(self.cuda)
        start = self.now()
        try:
            yield
        finally:
            self.seconds[name] += self.now() - start
            self.open.remove(name)
            if memory:
                self.peaks[name] = max(self.peaks.get(name, 0), peak_bytes(self.cuda))

    def around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return timed


def reset_peak(cuda: bool) -> None:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(cuda: bool) -> int:
    """Of allocated GPU memory, or of this process' resident size, since the last reset."""
    if cuda:
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class StepClock(TrainerCallback):
    """Closes a step: what the clock saw since the last one. Times the optimizer."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.done: list[dict[str, float]] = []
        self.counts: list[dict[str, int]] = []
        self.last = self.updating = clock.now()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.updating = self.clock.now()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.seconds["optimizer"] += self.clock.now() - self.updating
        self.clock.peaks["update"] = max(self.clock.peaks.get("update", 0), peak_bytes(self.clock.cuda))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        clock = self.clock
        now = clock.now()
        self.done.append({**clock.seconds, "step": now - self.last})
        self.counts.append(dict(clock.counts))
        clock.seconds.clear()
        clock.counts.clear()
        if len(self.done) == 1:
            clock.peaks.clear()  # the first step compares the two layouts, which costs memory once
        self.last = clock.now()


class TimedLogprobs(Logprobs):
    """The station with a clock around its passes without gradient."""

    engine: TimedTrainer

    def __call__(self, *args: Any, **fields: Any) -> Any:
        if torch.is_grad_enabled():
            return super().__call__(*args, **fields)
        with self.engine.clock.phase("ref"):  # generation and update are aligned, so that there is no old pass
            return super().__call__(*args, **fields)


class CountedSamples(Samples):
    """Samples with a clock around the opening of their images."""

    clock: Clock | None = None

    def open(self, index: int) -> Any:
        if self.clock is None:
            return super().open(index)
        with self.clock.phase("preprocess"):
            sample, images = super().open(index)
        self.clock.counts["decoded_images"] += len(images)
        return sample, images


def _called_by(processor: Any, call: Callable[..., Any]) -> Any:
    """The same processor with another `__call__`."""
    made: Any = object.__new__(type(type(processor).__name__, (type(processor),), {"__call__": call}))
    vars(made).update(vars(processor))
    return made


def _n_tiles(made: Any) -> int:
    """How many pictures an image processor made for the vision encoder: images, or tiles of images."""
    grid = made.get("image_grid_thw")
    if grid is not None:
        return len(grid)
    return sum(math.prod(np.shape(one)[:-3]) for one in made["pixel_values"])


def _n_images(images: Any) -> int:
    return sum(map(_n_images, images)) if isinstance(images, list | tuple) else 1


class TimedTrainer(Trainer):
    """The trainer with a clock around its methods."""

    clock: Clock
    attention = ""
    n_prompt = 0
    n_image_tokens = 1
    """Of one prompt."""
    started = 0.0

    def watch(self, clock: Clock) -> None:
        self.clock = clock
        self.logprobs = TimedLogprobs(self, self.sharing)
        whole: Any = self.processing_class
        images = whole.image_processor
        process, run = type(images).__call__, type(whole).__call__

        def counted(own: Any, *args: Any, **kwargs: Any) -> Any:
            made = process(own, *args, **kwargs)
            clock.counts["processor_images"] += _n_images(kwargs.get("images", args[0] if args else ()))
            clock.counts["processor_tiles"] += _n_tiles(made)
            return made

        def timed(own: Any, *args: Any, **kwargs: Any) -> Any:
            with clock.phase("preprocess"):
                return run(own, *args, **kwargs)

        whole.image_processor = _called_by(images, counted)
        self.processing_class = _called_by(whole, timed)
        for model in filter(None, (self.model, self.ref_model)):
            unwrapped = self.accelerator.unwrap_model(model)
            visual = next(module for name, module in unwrapped.named_modules() if name.split(".")[-1] in ENCODER_NAMES)
            visual.register_forward_pre_hook(self._saw_images, with_kwargs=True)
            inner = base_of(unwrapped).model
            inner.register_forward_pre_hook(self._saw_prompts, with_kwargs=True)
            inner.register_forward_hook(self._ran_prompts, with_kwargs=True)
            self.image_token_id = inner.config.image_token_id

    def _saw_images(self, module: Any, args: Any, kwargs: Any) -> None:
        """Images, or tiles of images where the encoder takes these (`_n_tiles`)."""
        grid = kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
        pixels = kwargs.get("pixel_values", args[0] if args else ())
        self.clock.counts["tower_images"] += len(pixels if grid is None else grid)

    def _saw_prompts(self, module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is not None and ids.shape[1] > 1:
            tokens = (ids == self.image_token_id).sum(dim=1)
            self.clock.counts["image_tokens"] += int(tokens.sum())
            self.n_image_tokens = max(self.n_image_tokens, int(tokens[:1].sum()))
            self.started = self.clock.now()

    def _ran_prompts(self, module: Any, args: Any, kwargs: Any, made: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if "rollout" in self.clock.open and ids is not None and ids.shape[1] > 1:
            self.clock.seconds["rollout_prefill"] += self.clock.now() - self.started

    def sample(self, ids: list[list[int]], images: Any, fields: dict[str, Any], n: int) -> Any:
        self.n_prompt = len(ids[0])
        with self.clock.phase("rollout", memory=True):
            return super().sample(ids, images, fields, n)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        reset_peak(self.clock.cuda)
        with self.clock.phase("forward_backward"):
            return super().compute_loss(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        backward = self.accelerator.backward
        self.accelerator.backward = self.clock.around(backward, "forward_backward")
        try:
            return super().training_step(*args, **kwargs)
        finally:
            self.accelerator.backward = backward


def run_side(case: Case, setting: Setting) -> dict[str, Any]:
    """Run `warmup + repeats` optimizer steps of a side in this process; seconds, peaks, counts and what was chosen."""
    cuda = case.device == "cuda"
    torch.manual_seed(case.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer, steps = _trainer(case, setting, Path(folder), cuda)
        gc.collect()
        trainer.train()
    measured = steps.done[case.warmup :]
    runs = {name: [step.get(name, 0.0) for step in measured] for name in PHASES}
    runs["update"] = [a + b for a, b in zip(runs["forward_backward"], runs["optimizer"], strict=True)]
    runs["rollout_decode"] = [a - b for a, b in zip(runs["rollout"], runs["rollout_prefill"], strict=True)]
    counts = dict.fromkeys(COUNTS, 0) | steps.counts[-1]
    # The loader fetches ahead, and not at an epoch's end: so what a step opens is the mean over all of them.
    counts["decoded_images"] = round(sum(step.get("decoded_images", 0) for step in steps.counts) / len(steps.counts))
    if tiles := counts.pop("processor_tiles", 0):
        counts["tower_images"] = round(counts["tower_images"] * counts["processor_images"] / tiles)
    counts["prompt_forwards"] = round(counts.pop("image_tokens", 0) / trainer.n_image_tokens)
    return {
        "runs": {name: values for name, values in runs.items() if any(values)},
        "peaks": dict(steps.clock.peaks) | {"step": max(steps.clock.peaks.values())},
        "counts": {name: int(counts[name]) for name in COUNTS},
        "first_call_s": steps.done[0]["step"],
        "attention": trainer.attention,
        "sharing": trainer.sharing.how.line(),
        "shared": trainer.sharing.how.off is None,
        "fallback_reason": trainer.sharing.how.off,
        "prompt_tokens": trainer.n_prompt,
    }


def _trainer(case: Case, setting: Setting, folder: Path, cuda: bool) -> tuple[Any, StepClock]:
    dtype = getattr(torch, setting.weights or case.dtype)
    packed = setting.side == "vlrl" and "window_attention" not in setting.without
    loaded = speed_model(case.model, torch.device(case.device), dtype, case.seed, packed=packed)
    if case.beta and case.tune == "full":
        _save(loaded, folder)
    images = write_images(folder, 4 * case.prompts * case.images_per_prompt, case.image_px, case.seed)
    task = speed_task(case.prompt_tokens, case.seed)
    n = 4 * case.prompts

    def sample(index: int) -> Sample:
        own = images[index * case.images_per_prompt : (index + 1) * case.images_per_prompt]
        return prepare_sample(Sample(id=str(index), task="speed", images=tuple(own), question="", answer=None), loaded)

    (folder / "run").mkdir()
    samples = CountedSamples(n, sample)
    rows = case.prompts * case.group
    at_once = min(setting.rows or rows, rows)
    args = GRPOConfig(
        output_dir=str(folder / "run"), max_steps=case.warmup + case.repeats, num_generations=case.group,
        per_device_train_batch_size=at_once, gradient_accumulation_steps=rows // at_once, seed=case.seed,
        max_completion_length=case.completion_tokens, generation_kwargs={"min_new_tokens": case.completion_tokens},
        temperature=1.0, top_k=0, beta=case.beta, learning_rate=0.0, lr_scheduler_type="constant", loss_type="dapo",
        router_aux_loss_coef=0.0,  # of experts: shared updates leave it out
        gradient_checkpointing=setting.checkpointing, bf16=case.dtype == "bfloat16", use_cpu=not cuda, save_strategy="no",
        report_to="none", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        dataloader_pin_memory=False, log_completions=False,
    )  # fmt: skip
    peft = None
    if case.tune == "lora":
        from peft import LoraConfig

        peft = LoraConfig(r=16, target_modules="all-linear")
    trainer = TimedTrainer(
        loaded, {"speed": task}, [Reward("letter_score", letter_score, 0.0, 1.0)], samples, args, peft,
        freeze_vision=case.freeze_vision, group_shared="off" if setting.side == "stock" else "on",
        group_shared_kernel=setting.kernel,
    )  # fmt: skip
    trainer.sharing.how.without = setting.without
    trainer.attention = loaded.attention
    clock = samples.clock = Clock(cuda)
    trainer.watch(clock)
    steps = StepClock(clock)
    trainer.add_callback(steps)
    return trainer, steps


def _save(loaded: Any, folder: Path) -> None:
    """Where the reference model is loaded from."""
    loaded.model.save_pretrained(folder / "start")
    loaded.processor.save_pretrained(folder / "start")
    loaded.model.config._name_or_path = str(folder / "start")
