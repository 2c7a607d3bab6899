"""Prompts for vLLM in the trainer's own processes (`--vllm_mode colocate`), and a look at what it made of them.

The trainer's prompts hold an image as a run of tokens, one for each of its features. vLLM runs the image processor itself and
puts that run in place of one placeholder. TRL 1.16 hands it the run, the first token of which it expands once more, so that the
model sees other prompts than it is trained on, and nothing is said (TRL's issues 6294, 6401, its pull request 6718). Here each
run is put back to what the model's processor began with; what vLLM read must then be the trainer's prompt, token by token, in
every generation. `tests/engines/test_vllm_prompts.py` tells when TRL does it itself.

Not here: vLLM as a server, which TRL hands runs that it finds again by their lengths (so they must stay).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object
from PIL import Image

from vlrl.models.replaced_method import replaced_method
from vlrl.training.checkpoints import RunStopped

Ids = list[int]
PROBES_PX = ((64, 64), (128, 96))
"""Sizes of the blank images that a processor is asked about: all that differs between their prompts is the run."""


@dataclass(frozen=True)
class ImageBlock:
    """How a processor writes an image: `before`, a run of `token`, `after`, in place of `placeholder`."""

    token: int
    placeholder: tuple[int, ...]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, processor: Any) -> ImageBlock:
        """Found by asking the processor. Raises ValueError where it writes images as more than one run (tiles in rows)."""
        found = {_block_of(processor, size) for size in PROBES_PX}
        if len(found) != 1:
            raise ValueError("its processor writes images of different sizes around different tokens")
        return found.pop()

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Where images stand in a prompt: first index and past the last one, with what is around their runs."""
        found, start, n = [], 0, len(ids)
        while start < n:
            if ids[start] != self.token:
                start += 1
                continue
            end = start
            while end < n and ids[end] == self.token:
                end += 1
            low, high = start - len(self.before), end + len(self.after)
            if low >= 0 and tuple(ids[low:start]) == self.before and tuple(ids[end:high]) == self.after:
                found.append((low, high))
            start = end
        return found

    def collapsed(self, ids: Sequence[int], n_images: int) -> Ids:
        """The prompt with a placeholder for each of its images. Raises RunStopped where it has not one run for each."""
        spans = self.spans(ids)
        if len(spans) != n_images:
            raise RunStopped(
                f"a prompt has {len(spans)} runs of image tokens for {n_images} images, so that vLLM would not know which is"
                " which; use --vllm_mode server with weights over NCCL, or leave --use_vllm out"
            )
        made, done = Ids(), 0
        for low, high in spans:
            made += [*ids[done:low], *self.placeholder]
            done = high
        return [*made, *ids[done:]]


def _block_of(processor: Any, size: tuple[int, int]) -> ImageBlock:
    words = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    text = processor.apply_chat_template(words, add_generation_prompt=True, tokenize=False)
    short = list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    image = Image.new("RGB", size)
    long = list(processor(text=[text], images=[[image]], add_special_tokens=False)["input_ids"][0])
    if short == long:  # a run of one token, which is the placeholder
        token = int(processor.image_token_id)
        return ImageBlock(token, (token,))
    low = _n_alike(short, long)
    left = min(len(short), len(long)) - low
    high = min(_n_alike(short[::-1], long[::-1]), left)
    placeholder, block = short[low : len(short) - high], long[low : len(long) - high]
    if not placeholder:  # the run begins or ends with the placeholder itself
        low, high = (low - 1, high) if low and block and short[low - 1] == block[-1] else (low, high - 1)
        placeholder, block = short[low : len(short) - high], long[low : len(long) - high]
    token = max(set(block), key=block.count)
    start = block.index(token)
    end = len(block) - block[::-1].index(token)
    if any(one != token for one in block[start:end]):
        raise ValueError("its processor writes an image as several runs of tokens (tiles)")
    return ImageBlock(token, tuple(placeholder), tuple(block[:start]), tuple(block[end:]))


def _n_alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n


def what_differs(theirs: Sequence[int], ours: Sequence[int], image_token: int | None = None) -> str:
    """In words, how the prompt that an engine read differs from the trainer's: lengths, image tokens, the first place."""
    said = f"the engine read {len(theirs)} prompt tokens, the trainer has {len(ours)}"
    if image_token is not None:
        said += f"; image tokens {list(theirs).count(image_token)} and {list(ours).count(image_token)}"
    return f"{said}; the first difference is at token {_n_alike(theirs, ours)}"


class ColocatedPrompts:
    """In the place of `VLLMGeneration.generate`: collapsed prompts in, each once a group, and the same results out.

    A group's prompt and images are handed over once with `n` completions to make; vLLM's prefix cache does the rest. With
    tensor parallelism TRL counts a completion for each prompt, so that rows stay single there. `vllm`: TRL's `VLLMGeneration`.
    """

    vllm: Any = None

    def __init__(self, processor: Any) -> None:
        """Made before vLLM is loaded, which takes long; `vllm` is set then. Raises ValueError as `ImageBlock.of` does."""
        size = dict(getattr(getattr(processor, "image_processor", None), "size", None) or {})
        limits = {name: size[name] for name in ("shortest_edge", "longest_edge") if name in size}
        self.settings: dict[str, Any] = {"size": limits} if len(limits) == 2 else {}
        self.block = ImageBlock.of(processor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, TRL generates through here."""
        theirs = self.vllm.generate

        def generate(prompts: list[Ids], images: Any, num_generations: int, profiler: Any = None) -> tuple[Any, ...]:
            return self.generate(theirs, prompts, images, num_generations, profiler)

        with replaced_method(self.vllm, "generate", generate), self._limits():
            yield

    def generate(
        self, theirs: Callable[..., tuple[Any, ...]], prompts: list[Ids], images: Any, num_generations: int, profiler: Any
    ) -> tuple[Any, ...]:
        """TRL's four results for these rows. Raises RunStopped, on all processes, where vLLM read another prompt than ours."""
        shown = [None] * len(prompts) if images is None else list(images)
        n = 1 if self.vllm.tensor_parallel_size > 1 else group_size(prompts, shown)
        short = [self.block.collapsed(ids, len(own or ())) for ids, own in zip(prompts[::n], shown[::n], strict=True)]
        own_kwargs = self.vllm.generation_kwargs
        self.vllm.generation_kwargs = {**own_kwargs, "n": n} if n > 1 else own_kwargs
        # vLLM keeps what its vision encoder made of an image until it needs the room, whatever the weights are since.
        self.vllm.llm.llm_engine.reset_encoder_cache()
        try:
            pictures = None if images is None else shown[::n]
            read, *made = theirs(prompts=short, images=pictures, num_generations=num_generations, profiler=profiler)
        finally:
            self.vllm.generation_kwargs = own_kwargs
        self._check_read(read, prompts[::n])
        return (list(prompts), *made)

    def _check_read(self, read: Sequence[Sequence[int]], ours: Sequence[Ids]) -> None:
        pairs = zip(read, ours, strict=True)
        own = next((what_differs(theirs, ids, self.block.token) for theirs, ids in pairs if list(theirs) != ids), None)
        found = next(filter(None, gather_object([own])), None)
        if found is not None:
            raise RunStopped(
                f"vLLM samples from other prompts than the trainer learns from, so that nothing would be learnt: {found}."
                " Its image processor or tokenizer differs from the trainer's (another version, or other limits of the image"
                " size in the model's folder); see docs/troubleshooting.md, or leave --use_vllm out"
            )

    @contextmanager
    def _limits(self) -> Iterator[None]:
        """Within, vLLM resizes images as the run's processor does: it reads its own from the model's folder."""
        theirs, settings = self.vllm.llm.generate, self.settings

        def generate(prompts: Sequence[dict[str, Any]], *args: Any, **options: Any) -> Any:
            rows = [{**row, "mm_processor_kwargs": settings} if row.get("multi_modal_data") else row for row in prompts]
            return theirs(rows, *args, **options)

        with replaced_method(self.vllm.llm, "generate", generate):
            yield


def group_size(prompts: Sequence[Ids], images: Sequence[Any]) -> int:
    """How many rows in a row are alike, the same for all of them; 1 where they are not."""
    starts = [
        i for i in range(len(prompts)) if i == 0 or prompts[i] != prompts[i - 1] or not _same_images(images[i], images[i - 1])
    ]
    sizes = {after - start for start, after in zip(starts, [*starts[1:], len(prompts)], strict=True)}
    return sizes.pop() if len(sizes) == 1 else 1


def _same_images(some: Sequence[Any] | None, others: Sequence[Any] | None) -> bool:
    if some is others:
        return True
    if len(some or ()) != len(others or ()):
        return False
    return all(one is other or one == other for one, other in zip(some or (), others or (), strict=True))
