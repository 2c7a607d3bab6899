"""What the model of the implicit reward (`prime:FOLDER`) starts from, where a folder is named: the weights of an earlier one.

Not here: how it learns (`vlrl.training.grpo.implicit_reward`).
"""

from __future__ import annotations

import copy
from typing import Any

from vlrl.models.load import ModelInputs, load_inputs, load_model
from vlrl.rewards.implicit_reward import PRIME, Prime
from vlrl.training.options import ConfigError

_SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")


def check_prime_folder(prime: Prime | None, inputs: ModelInputs) -> None:
    """The folder holds a model of the run's kind and size, by its configuration. Raises ConfigError, ModelError."""
    if prime is None or not prime.options.folder:
        return
    folder = prime.options.folder
    theirs, own = (_shape(one.config) for one in (load_inputs(folder), inputs))
    for name, value in own.items():
        if theirs[name] != value:
            raise ConfigError(
                f"reward {PRIME}: the model of {folder} has {name} {theirs[name]}, the run's has {value}; the reward is a ratio"
                " of both, so name one of the same kind and size"
            )


def _shape(config: Any) -> dict[str, Any]:
    text = config.get_text_config()
    return {"kind": config.model_type, **{name: getattr(text, name, None) for name in _SHAPE}}


def with_weights_of(folder: str, start: Any) -> Any:
    """A copy of a model with the weights of a folder. Raises ModelError where these cannot be loaded, ConfigError where they
    are another model's."""
    found = load_model(folder, dtype=start.dtype).model
    made = copy.deepcopy(start)
    try:
        made.load_state_dict(found.state_dict())
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"reward {PRIME}: {folder} holds other weights than the run's model: {why:.200}") from error
    return made
