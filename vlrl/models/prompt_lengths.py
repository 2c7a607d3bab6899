"""How many tokens prompts take with their images, measured without opening an image.

The tokens of an image or a video follow from its size by the processor's own arithmetic. A text takes at most a token a byte,
so a prompt whose bytes fit need not be tokenised; the others are, in batches. So a million rows cost little more than reading
them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from vlrl.data.images import FramesTaken
from vlrl.models.videos import video_tokens

N_BATCH = 512
SLACK = 8
"""Tokens that a tokenizer may add to a text by itself."""
GROWTH = 10
"""Bytes that Unicode's NFKC form, which some tokenizers make first, may add to each byte of a text that is not ASCII."""
SMALL_PX = 32
"""Images with a shorter side are given to the processor once, to see whether it takes them."""
TokenCounts = tuple["array[int]", "array[int]"]
"""Of each prompt the tokens of its images, and a bound of all its tokens."""
Words = Sequence[Mapping[str, Any]]
"""A prompt as messages: a system message maybe, and one user turn of images, or a video, and a text."""
ShownSizes = Sequence[tuple[int, int]] | Sequence[FramesTaken]
"""Width and height in pixels of each image of a prompt, or of all of them alike; or which frames its video shows."""


class PromptLengths:
    """Prompts in the order in which they are added. Of each: the tokens of its images, and a bound of all its tokens."""

    def __init__(self, processor: Any, template: Mapping[str, Any] | None = None, counts: TokenCounts | None = None) -> None:
        """`counts`: those of prompts that another process has measured (`counts`)."""
        self.processor, self.template = processor, dict(template or {})
        self._images, self._bounds = counts or (array("q"), array("q"))
        self._per_size: dict[tuple[int, int, bool], int] = {}
        self._around: dict[tuple[int, str], int] = {}

    @property
    def counts(self) -> TokenCounts:
        """What is known of the prompts so far, to be handed to another process."""
        return self._images, self._bounds

    def add(self, words: Words, sizes: ShownSizes) -> None:
        """Take one more prompt."""
        images = self.shown_tokens(words, sizes)
        n, kind = self._shown_kind(words)
        text = "".join(turn["content"][-1]["text"] for turn in words)
        n_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "replace")) * (GROWTH + 1)
        self._images.append(images)
        self._bounds.append(images + self._tokens_around(n, kind) + n_bytes + SLACK * len(words))

    def shown_tokens(self, words: Words, sizes: ShownSizes) -> int:
        """Tokens of the images of a prompt, or of its video."""
        n, _ = self._shown_kind(words)
        seen: Sequence[tuple[int, int] | FramesTaken] = sizes if len(sizes) == n else [sizes[0]] * n
        return sum(
            video_tokens(self.processor, one) if isinstance(one, FramesTaken) else self.image_tokens(one, alone=n == 1)
            for one in seen
        )

    @staticmethod
    def _shown_kind(words: Words) -> tuple[int, str]:
        """How many placeholders a prompt has, and of what: "image" or "video"."""
        content = words[-1]["content"]
        return len(content) - 1, str(content[0]["type"]) if len(content) > 1 else "image"

    def tokens_over(self, limit: int, words: Words, sizes: ShownSizes) -> int | None:
        """The tokens of one prompt more where they exceed `limit`, else None. It is not added."""
        place = len(self._bounds)
        self.add(words, sizes)
        try:
            if self._bounds[place] <= limit:
                return None
            n = self._exact([words], [place])[0]
        finally:
            self._images.pop()
            self._bounds.pop()
        return n if n > limit else None

    def longer_than(self, limit: int, words_of: Callable[[int], Words], what: str = "prompts") -> dict[int, int]:
        """Place -> tokens of the prompts of more than `limit` tokens. `words_of`: the prompt at a place."""
        near = [i for i, bound in enumerate(self._bounds) if bound > limit]
        found: dict[int, int] = {}
        hidden = True if len(near) < 2000 else None
        for start in tqdm(range(0, len(near), N_BATCH), desc=f"measuring {what}", disable=hidden, leave=False):
            places = near[start : start + N_BATCH]
            for place, n in zip(places, self._exact([words_of(i) for i in places], places), strict=True):
                if n > limit:
                    found[place] = n
        return found

    def _exact(self, prompts: Sequence[Words], places: Sequence[int]) -> list[int]:
        """Tokens of prompts: those of the whole text, each placeholder replaced by its image's."""
        rows = self.processor.tokenizer([self._rendered(words) for words in prompts], add_special_tokens=False).input_ids
        counts = [len(words[-1]["content"]) - 1 for words in prompts]
        return [len(ids) + self._images[i] - n for ids, i, n in zip(rows, places, counts, strict=True)]

    def image_tokens(self, size: tuple[int, int], alone: bool = True) -> int:
        """Tokens of an image of this width and height in pixels. `alone`: whether a row has no other, which some models
        (LLaVA-OneVision) show in more detail."""
        key = (*size, alone or not self._tells_alone)
        if key not in self._per_size:
            if len(self._per_size) > 100_000:
                self._per_size.clear()
            self._per_size[key] = self._counted(*key)
        return self._per_size[key]

    @property
    def _tells_alone(self) -> bool:
        return "batch_num_images" in getattr(self.processor.image_processor, "model_input_names", ())

    def _counted(self, width: int, height: int, alone: bool) -> int:
        images = self.processor.image_processor
        merge = getattr(images, "merge_size", None)
        if min(width, height) >= SMALL_PX and merge and hasattr(images, "get_number_of_image_patches"):
            return int(images.get_number_of_image_patches(height, width, {})) // int(merge) ** 2
        # Any other processor is asked with blank images of this size, each is with a small one: not all can show those.
        n = 1 if alone else 2
        text = self._rendered([{"role": "user", "content": [*({"type": "image"},) * n, {"type": "text", "text": "a"}]}])
        blank = [Image.new("RGB", (width, height))] * n
        try:
            whole = len(self.processor(text=[text], images=[blank], add_special_tokens=False)["input_ids"][0])
        except (ValueError, TypeError, IndexError, RuntimeError, ZeroDivisionError) as error:
            raise ValueError(f"the model's image processor takes no image of {width}x{height} px: {error}") from error
        return (whole - len(self.processor.tokenizer(text, add_special_tokens=False).input_ids)) // n + 1

    def _rendered(self, words: Words) -> str:
        render = self.processor.apply_chat_template
        return str(render(list(words), add_generation_prompt=True, tokenize=False, **self.template))

    def _tokens_around(self, n: int, kind: str) -> int:
        """What the chat template adds to a text and the tokens of its `n` images or videos."""
        if (n, kind) not in self._around:
            content = [*({"type": kind} for _ in range(n)), {"type": "text", "text": "a"}]
            text = self._rendered([{"role": "user", "content": content}])
            self._around[n, kind] = len(self.processor.tokenizer(text, add_special_tokens=False).input_ids)
        return self._around[n, kind]


def context_length(config: Any) -> int | None:
    """The most tokens that a model's positions allow, prompt and completion together; None where its config does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = getattr(text, "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else None
