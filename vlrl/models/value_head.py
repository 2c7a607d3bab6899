"""A vision-language model with a value head: one number a step, read at the step's last token.

Saved, the backbone is an ordinary folder (`AutoModelForImageTextToText` loads it) and the head two files beside it. One forward
pass gives the values of all steps of a solution, since a token sees only what stands before it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText

from vlrl.data.images import open_image
from vlrl.data.special_tokens import without_special_tokens
from vlrl.data.step_values import prompt_text
from vlrl.data.value_head_files import HEAD_CONFIG, HEAD_WEIGHTS, STEPS, has_head, read_head
from vlrl.models.load import LoadedModel, load_model, special_token_pattern
from vlrl.models.names import ModelError
from vlrl.models.whole_files import load_weights, safetensors_problem

STEP_END = "\n"
"""What ends a step's text; the head reads the last token of the step with it."""
TOKEN_FIELDS = ("token_type_ids", "mm_token_type_ids")
"""What processors give a value a token besides the ids and the mask."""


class StepValueModel(nn.Module):
    """Backbone and head. `forward` returns logits; a value of a step is their sigmoid, in 0..1; of a head of preferences the
    logit itself.

    `n_attributes`: how many qualities (helpful, correct, ...) a head of preferences rates, each by an output; a logit is their
    mean, or with `gated` their sum in the shares that a softmax over the prompt's last state gives (ArmoRM, arXiv 2406.12845;
    differs: one linear layer, and shares are trained with the rest).
    """

    def __init__(self, backbone: Any, hidden_size: int, kind: str = STEPS, n_attributes: int = 1, gated: bool = False) -> None:
        super().__init__()
        self.backbone, self.kind = backbone, kind
        self.value_head = nn.Linear(hidden_size, n_attributes, dtype=torch.float32)
        self.gate = nn.Linear(hidden_size, n_attributes, dtype=torch.float32) if gated else None
        for layer in filter(None, (self.value_head, self.gate)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def config(self) -> Any:
        return self.backbone.config

    def ratings(self, ends_BS: torch.Tensor, starts_B: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What each output says at the step ends, [B, S, K], and the share of each, [B, K]. `starts_B`: positions of the
        prompts' last tokens."""
        whole = self.backbone.get_base_model() if hasattr(self.backbone, "get_base_model") else self.backbone
        hidden_BTD = whole.base_model(**inputs, use_cache=False).last_hidden_state
        rows_B = torch.arange(len(ends_BS), device=ends_BS.device)
        ratings_BSK: torch.Tensor = self.value_head(hidden_BTD[rows_B[:, None], ends_BS.clamp(min=0)].float())
        n = self.value_head.out_features
        shares_BK = torch.full((len(ends_BS), n), 1 / n, device=ends_BS.device)
        if self.gate is not None:
            shares_BK = torch.softmax(self.gate(hidden_BTD[rows_B, starts_B].float()), dim=-1)
        return ratings_BSK, shares_BK

    def forward(self, ends_BS: torch.Tensor, starts_B: torch.Tensor, with_ratings: bool = False, **inputs: Any) -> Any:
        """Logits [B, S] at the step ends `ends_BS` (token positions; -1 where a solution has fewer steps, its logits mean
        nothing). `inputs`: what the backbone takes. `with_ratings`: of the first end alone, every output [B, K] and the logits
        [B]."""
        ratings_BSK, shares_BK = self.ratings(ends_BS, starts_B, **inputs)
        logits_BS = (ratings_BSK * shares_BK[:, None]).sum(-1)
        return (ratings_BSK[:, 0], logits_BS[:, 0]) if with_ratings else logits_BS

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Called by the `Trainer` of transformers; before 5.24 under the name below."""
        backbone = self.backbone
        enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
        enable(activation_checkpointing_kwargs)
        if hasattr(self.backbone, "peft_config"):
            self.backbone.enable_input_require_grads()

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)


def hidden_size(model: Any) -> int:
    """Width of the language model's hidden states. Raises ModelError."""
    config = model.config.get_text_config()
    size = getattr(config, "hidden_size", None)
    if not isinstance(size, int):
        raise ModelError(f"{type(model).__name__}: its text config has no hidden_size, so no value head fits")
    return size


def save_head(model: StepValueModel, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the head beside a saved backbone; `about`: how it was trained, added to its JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _head_state(model).items()}
    save_file(state, folder / HEAD_WEIGHTS)
    output = "sigmoid" if model.kind == STEPS else "logit"
    facts = {
        "format": 1,
        "hidden_size": model.value_head.in_features,
        "step_end": STEP_END,
        "output": output,
        "kind": model.kind,
    }
    (folder / HEAD_CONFIG).write_text(json.dumps({**facts, **about}, indent=2) + "\n", encoding="utf-8")


def _head_state(model: StepValueModel) -> dict[str, torch.Tensor]:
    gate = {} if model.gate is None else {f"gate.{name}": one for name, one in model.gate.state_dict().items()}
    return {**model.value_head.state_dict(), **gate}


def load_head(model: StepValueModel, folder: Path) -> None:
    """Raises ModelError where the head cannot be read whole, or was trained on a model of another width."""
    if problem := safetensors_problem(folder / HEAD_WEIGHTS):
        raise ModelError(problem)
    state = load_file(folder / HEAD_WEIGHTS)
    if sorted(state) != sorted(_head_state(model)) or state["weight"].ndim != 2:
        raise ModelError(f"{folder / HEAD_WEIGHTS} holds {', '.join(sorted(state))}, not the weight and bias of a value head")
    width = state["weight"].shape[1]
    if width != model.value_head.in_features:
        raise ModelError(f"{folder}: the value head takes {width} numbers, the model gives {model.value_head.in_features}")
    if len(state["weight"]) != model.value_head.out_features:
        raise ModelError(
            f"{folder}: the value head has {len(state['weight'])} outputs, this model's has {model.value_head.out_features}"
        )
    model.value_head.load_state_dict({name: state[name] for name in ("weight", "bias")})
    if model.gate is not None:
        model.gate.load_state_dict({name: state[f"gate.{name}"] for name in ("weight", "bias")})


def load_backbone(folder: Path, dtype: torch.dtype) -> Any:
    return load_weights(AutoModelForImageTextToText, str(folder), dtype=dtype)


def load_prm(name: str, kinds: Collection[str] = (STEPS,), **options: Any) -> tuple[StepValueModel, LoadedModel]:
    """A trained reward model of one of `kinds` from its folder; `options` are those of `load_model`. Raises ModelError."""
    if not has_head(name):
        raise ModelError(f"{name}: holds no {HEAD_WEIGHTS}; give the final/ folder of a run of --task prm")
    loaded = load_model(name, coords="px", **options)
    try:
        head = read_head(Path(name))
    except ValueError as error:
        raise ModelError(str(error)) from error
    if head.kind not in kinds:
        raise ModelError(f"{name}: its head was trained on {head.kind}, not on {' or '.join(kinds)}")
    model = StepValueModel(loaded.model, hidden_size(loaded.model), head.kind, head.n_outputs, head.gated)
    load_head(model, Path(name))
    model.eval()
    return model, loaded


@dataclass(frozen=True)
class Encoded:
    """One solution as tensors. `types`: further values per token [T]; `vision`: inputs of the vision encoder; `ends`: position
    of each step's last token; `start`: of the prompt's."""

    ids_T: torch.Tensor
    types: dict[str, torch.Tensor]
    vision: dict[str, torch.Tensor]
    ends: tuple[int, ...]
    start: int


class Encoder:
    """Solutions -> tensors. Prompt and steps are tokenised apart, so that a step's ids do not depend on what follows; the
    prompts of the questions seen last are kept."""

    def __init__(self, loaded: LoadedModel, n_kept: int = 64) -> None:
        self.loaded, self.n_kept = loaded, n_kept
        self.special = special_token_pattern(loaded.processor)
        self._kept: dict[tuple[tuple[str, ...], str], dict[str, torch.Tensor]] = {}
        pad = loaded.tokenizer.pad_token_id
        self.pad_id: int = loaded.tokenizer.eos_token_id if pad is None else pad

    def _prompt(self, images: tuple[str, ...], question: str) -> dict[str, torch.Tensor]:
        key = (images, question)
        if key not in self._kept:
            while len(self._kept) >= self.n_kept:
                self._kept.pop(next(iter(self._kept)))
            content: list[dict[str, Any]] = [{"type": "image"} for _ in images]
            content.append({"type": "text", "text": without_special_tokens(prompt_text(question), self.special)})
            processor: Any = self.loaded.processor
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            made = processor(
                text=[text],
                images=[[open_image(image) for image in images]] if images else None,
                return_tensors="pt",
                add_special_tokens=False,
            )
            self._kept[key] = dict(made)
        return self._kept[key]

    def encode(self, images: str | Sequence[str] | None, question: str, steps: Sequence[str]) -> Encoded:
        """Raises ImageError."""
        shown = (images,) if isinstance(images, str) else tuple(images or ())
        prompt = self._prompt(shown, question)
        ids, ends = [prompt["input_ids"][0]], []
        n = len(ids[0])
        for step in steps:
            text = without_special_tokens(step + STEP_END, self.special)
            step_ids = self.loaded.tokenizer(text, add_special_tokens=False).input_ids
            ids.append(torch.tensor(step_ids, dtype=torch.long))
            n += len(step_ids)
            ends.append(n - 1)
        types = {key: nn.functional.pad(prompt[key][0], (0, n - len(ids[0]))) for key in TOKEN_FIELDS if key in prompt}
        vision = {key: value for key, value in prompt.items() if key not in ("input_ids", "attention_mask", *TOKEN_FIELDS)}
        return Encoded(torch.cat(ids), types, vision, tuple(ends), len(ids[0]) - 1)

    def collate(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """A batch padded on the right, as `StepValueModel.forward` takes it."""
        lengths = torch.tensor([len(row.ids_T) for row in rows])
        batch = {
            "input_ids": pad_sequence([row.ids_T for row in rows], batch_first=True, padding_value=self.pad_id),
            "attention_mask": (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long(),
            "ends_BS": pad_sequence([torch.tensor(row.ends) for row in rows], batch_first=True, padding_value=-1),
            "starts_B": torch.tensor([row.start for row in rows]),
        }
        for key in TOKEN_FIELDS:
            if any(key in row.types for row in rows):
                parts = [row.types.get(key, torch.zeros_like(row.ids_T)) for row in rows]
                batch[key] = pad_sequence(parts, batch_first=True)
        for key in dict.fromkeys(key for row in rows for key in row.vision):
            batch[key] = torch.cat([row.vision[key] for row in rows if key in row.vision])
        return batch


@torch.inference_mode()
def score_solutions(
    model: StepValueModel,
    encoder: Encoder,
    solutions: Sequence[tuple[str | Sequence[str] | None, str, Sequence[str]]],
    batch_size: int = 32,
) -> list[list[float]]:
    """The value of every step of (image or images, question, steps), in order; one pass a batch of solutions. Of a head
    of preferences, logits. Raises ImageError."""
    was_training = model.training
    model.eval()
    device = model.value_head.weight.device
    found: list[list[float]] = []
    for start in range(0, len(solutions), batch_size):
        rows = [encoder.encode(*one) for one in solutions[start : start + batch_size]]
        batch = {key: value.to(device) for key, value in encoder.collate(rows).items()}
        logits_BS = model(**batch).cpu()
        values_BS = torch.sigmoid(logits_BS) if model.kind == STEPS else logits_BS
        found += [values_BS[i, : len(row.ends)].tolist() for i, row in enumerate(rows)]
    model.train(was_training)
    return found
