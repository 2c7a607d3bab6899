"""Adapters of a run (a checkpoint with `--use_peft`, or its `adapter/`) as a model: merged into the weights they belong to.

Not here: which model that is (`vlrl.models.names.adapter_base`), and how adapters are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlrl.models.whole_files import PROCESSOR_FILES, TOKENIZER_FILES, TOKENIZER_SETTINGS, one_line


def has_inputs(name: str) -> bool:
    """Whether a folder of adapters holds tokenizer and image processor too."""
    folder = Path(name).expanduser()
    return all(
        any((folder / file).is_file() for file in files) for files in (TOKENIZER_FILES, TOKENIZER_SETTINGS, PROCESSOR_FILES)
    )


def with_adapters(model: Any, name: str) -> Any:
    """The model with the adapters of a folder merged into its weights. Raises ModelError where they are not of this model."""
    from peft import PeftModel

    with one_line(name, "its adapters cannot be merged into the model that they name"):
        adapted: Any = PeftModel.from_pretrained(model, str(Path(name).expanduser()))
        return adapted.merge_and_unload()
