"""Whether the files of a model or a checkpoint are whole, and every failure to load one as one line that names the file.

Headers and ends of files are read, not the weights, so a folder of any size is checked in a moment. What only shows while
loading (another architecture, weights of other shapes, a tokenizer of another model) is caught there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError

from vlrl.models.names import (
    ADAPTER_CONFIG,
    TINY_NAMES,
    ModelError,
    adapter_base,
    is_adapter_folder,
    model_name_problem,
)

LOAD_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, ImportError, AssertionError),
    *(RecursionError, UnpicklingError, SafetensorError, zipfile.BadZipFile, TemplateError),
)
"""What reading a damaged or foreign file raises, by the libraries that read it. `tokenizers` raises plain `Exception`."""
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
INDEX_SUFFIX = ".index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
TOKENIZER_SETTINGS = ("tokenizer_config.json",)
"""Without it transformers takes the end of a sequence for another token."""
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_LFS = b"version https://git-lfs"
_MAX_HEADER_BYTES = 100_000_000


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    said = " ".join(str(error).split()) or type(error).__name__
    name = type(error).__name__
    text = said if isinstance(error, OSError | ValueError | ImportError) or name in said else f"{name}: {said}"
    return text if len(text) <= 300 else f"{text[:297]}..."


@contextlib.contextmanager
def one_line(name: str, what: str) -> Iterator[None]:
    """What fails to load inside the block becomes a ModelError: `name`, what could not be done, and why. Too little memory and
    bugs of other kinds pass through."""
    try:
        yield
    except (ModelError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, LOAD_ERRORS):
            raise
        raise ModelError(f"{name}: {what}: {first_line(error)}") from error


# ---- single files


def json_problem(path: Path) -> str | None:
    """Why a file is no JSON object, or None."""
    if not path.is_file():
        return f"{path} is missing"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"{path} is damaged: {'it is empty' if not _size(path) else first_line(error)}"
    return None if isinstance(value, dict) else f"{path} is damaged: it holds no JSON object"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def safetensors_problem(path: Path) -> str | None:
    """Why a safetensors file is not whole, or None; its header is read and its length compared with what the header states."""
    try:
        header, whole, size = _header(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{path} is damaged: {first_line(error)}"
    if not header:
        return f"{path} is damaged: it holds no weights"
    if size < whole:
        return f"{path} is cut off: {size:,} of {whole:,} bytes"
    return None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a safetensors file that is whole. Raises ValueError for one that is not."""
    header, _, _ = _header(path)
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The entries of a safetensors file, the length that they state and the length that it has, in bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS))
        n = int.from_bytes(start[:8], "little")
        file.seek(8)
        text = file.read(n) if n <= min(size - 8, _MAX_HEADER_BYTES) else b""
    if size < 8:
        raise ValueError(f"it is cut off: it has {size} bytes")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_no_header(start, n, size)) from error
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return entries, 8 + n + max((entry["data_offsets"][1] for entry in entries.values()), default=0), size


def _no_header(start: bytes, n: int, size: int) -> str:
    """What a file is that has no header of safetensors. `n`: the length of the header, if it were one."""
    if start == _LFS:
        return "it is a Git LFS pointer, not the weights; get them by `git lfs pull`"
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "it is a pickle of PyTorch under the name of a safetensors file; save it as safetensors"
    if n > _MAX_HEADER_BYTES:
        return "it is no safetensors file"
    return f"it is cut off within its header: {size:,} bytes" if n > size - 8 else "its header cannot be read"


def pickle_problem(path: Path) -> str | None:
    """Why a file of `torch.save` is not whole, or None. Its end is read, where the list of its parts stands."""
    size = _size(path)
    if not size:
        return f"{path} is damaged: it is empty"
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        return f"{path} is a Git LFS pointer, not the file; get it by `git lfs pull`"
    if start[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as parts:
                parts.infolist()
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            return f"{path} is cut off or damaged ({size:,} bytes): {first_line(error)}"
        return None
    return None if start[:1] == b"\x80" else f"{path} is damaged: it is no file of torch.save"


# ---- folders


def weights_problem(folder: Path, names: tuple[str, ...] = WEIGHT_FILES) -> str | None:
    """What is wrong with the weights in a folder (one file of these names, or an index of several), or None."""
    for name in names:
        index = folder / f"{name}{INDEX_SUFFIX}"
        if (folder / name).is_file():
            return file_problem(folder / name)
        if index.is_file():
            return _index_problem(index)
    found = sorted(path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf"))
    also = f" (it holds {', '.join(found[:4])})" if found else ""
    return f"{folder} holds no weights: there is no {' or '.join(names)}{also}"


def file_problem(path: Path) -> str | None:
    """Why a file of weights or states is not whole, or None."""
    return safetensors_problem(path) if path.suffix == ".safetensors" else pickle_problem(path)


def _index_problem(index: Path) -> str | None:
    if problem := json_problem(index):
        return problem
    places = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
    if not isinstance(places, dict) or not places:
        return f"{index} is damaged: it has no weight_map"
    for shard in sorted(set(map(str, places.values()))):
        path = index.parent / shard
        if not path.is_file():
            return f"{path} is missing: {index.name} names it; copy the folder again"
        if problem := file_problem(path):
            return problem
        if path.suffix == ".safetensors":
            held = tensor_shapes(path)
            lost = next((name for name, place in places.items() if place == shard and name not in held), None)
            if lost is not None:
                return f"{path} lacks {lost}, which {index.name} says it holds; copy the folder again"
    return None


def check_files(name: str, *, weights: bool = True) -> None:
    """The files of a model folder are there and whole; hub ids and embedded models pass. `weights`: those too. Raises
    ModelError."""
    folder = Path(name).expanduser()
    if name in TINY_NAMES or not folder.is_dir():
        return
    if problem := model_name_problem(name):
        raise ModelError(problem)
    if is_adapter_folder(name):
        check_files(adapter_base(name), weights=weights)
        if problem := json_problem(folder / ADAPTER_CONFIG) or weights_problem(folder, ADAPTER_FILES):
            raise ModelError(problem)
        return
    problems = [json_problem(path) for path in sorted(folder.glob("*.json"))]
    problems.append(weights_problem(folder) if weights else None)
    needed = {"tokenizer": TOKENIZER_FILES, "tokenizer settings": TOKENIZER_SETTINGS, "image processor": PROCESSOR_FILES}
    for what, files in needed.items():
        if not any((folder / file).is_file() for file in files):
            again = "copy the folder again, or copy these files from the model it was trained from"
            problems.append(f"{folder} has no {what}: there is no {' or '.join(files[:2])}; {again}")
    if problem := next(filter(None, problems), None):
        raise ModelError(problem)


# ---- loading


def load_weights(kind: Any, name: str, **options: Any) -> Any:
    """`kind.from_pretrained(name)`, or a ModelError where a weight is missing (transformers would draw it at random and go on)
    or cannot be read."""
    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(_is_no_report)
    try:
        with one_line(name, "its weights cannot be loaded"):
            model, info = kind.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    finally:
        log.removeFilter(_is_no_report)
    missing, others = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if others:
        key, found, wanted = others[0]
        raise ModelError(
            f"{name}: {len(others)} of its weights have other shapes than its config.json says, the first: {key} of"
            f" {tuple(found)} for {tuple(wanted)}; weights and config.json are of different models"
        )
    if missing:
        n_all = len(model.state_dict())
        raise ModelError(
            f"{name} lacks {len(missing)} of the {n_all} weights of {type(model).__name__}, the first: {missing[0]}; its"
            " weights are of another model than its config.json, or a file is missing"
        )
    return model


def _is_no_report(record: logging.LogRecord) -> bool:
    """Drops transformers' words on missing weights, which the error says in one line."""
    said = record.getMessage()
    return "LOAD REPORT" not in said and "seem corrupted" not in said


def check_inputs(name: str, processor: Any, config: Any) -> None:
    """One prompt with a blank image goes through template, tokenizer and image processor, and its placeholders are those that
    the model knows. Raises ModelError."""
    words = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    if not getattr(processor, "chat_template", None) and not getattr(processor.tokenizer, "chat_template", None):
        raise ModelError(
            f"{name} has no chat template: its folder lacks chat_template.jinja; copy it from the model it came from"
        )
    with one_line(name, "a prompt with an image cannot be made of it (chat template, tokenizer, image processor)"):
        text = processor.apply_chat_template(words, add_generation_prompt=True, tokenize=False)
        made = processor(text=[text], images=[[Image.new("RGB", (64, 64))]], add_special_tokens=False)
    if processor.tokenizer.eos_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no end-of-sequence token; tokenizer_config.json is missing or incomplete")
    wanted, token = getattr(config, "image_token_id", None), getattr(processor, "image_token", None)
    if isinstance(wanted, int) and isinstance(token, str):
        found = processor.tokenizer.convert_tokens_to_ids(token)
        # Gemma 3 writes one token for an image and puts others in its place.
        if wanted not in (found, *getattr(processor, "image_token_ids", ())):
            raise ModelError(
                f"{name}: its tokenizer has {token} as token {found}, its config.json as {wanted}; tokenizer and weights are of"
                " different models"
            )
        if wanted not in made["input_ids"][0]:
            raise ModelError(f"{name}: its chat template puts no image into a prompt; it is that of a text model")


def check_vocabulary(name: str, processor: Any, rows: int) -> None:
    """Every token that a text can become has a row among the `rows` of the embedding. Raises ModelError."""
    tokenizer = processor.tokenizer
    spare = set(getattr(tokenizer, "added_tokens_decoder", {})) - {tokenizer.eos_token_id, tokenizer.pad_token_id}
    beyond = [(i, token) for token, i in tokenizer.get_vocab().items() if i >= rows and i not in spare]
    if beyond:
        i, token = min(beyond)
        raise ModelError(
            f"{name}: its tokenizer has {len(beyond):,} tokens beyond the model's {rows:,} embeddings, as {token!r} ({i});"
            " tokenizer and weights are of different models"
        )
