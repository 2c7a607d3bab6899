"""The models that a visitor may choose: those of the package, the one that the page was started with, those of the runs.

A name from anywhere else is refused in one way, whether or not there is such a file.
"""

from __future__ import annotations

import re
from pathlib import Path

from httpx import HTTPError

from demos.components import NOT_LISTED
from demos.runs import Runs
from vlrl.models.names import EMBEDDED, TINY_NAMES


class Refused(ValueError):
    """What a visitor gave cannot be used; the message says why."""


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
HUB_S = 5.0
"""Seconds that the hub has to say whether it holds a model."""
RUN = "run "
"""Begins the name of a run's model; no hub id and no embedded model has a space."""


class ModelList:
    """Names of models and what to load for each. `first`: the operator's choice, whatever it is; `allow_hub`: whether any id of
    the Hugging Face hub may be given as well."""

    def __init__(self, shelf: Runs, first: str, allow_hub: bool = False) -> None:
        self.shelf, self.first, self.allow_hub = shelf, first, allow_hub

    def names(self, first: str | None = None) -> list[str]:
        """Those to choose from, `first` (else the operator's choice) before the others."""
        found = [first or self.first, self.first, *EMBEDDED, *(f"{RUN}{name}" for name in self.shelf.models())]
        return list(dict.fromkeys(found))

    def check_hub(self, source: str) -> None:
        """Raises Refused, after `HUB_S` seconds at most, for a hub id that a visitor typed and that cannot be had."""
        if source == self.first or source in TINY_NAMES or Path(source).exists():
            return
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            HfApi().model_info(source, timeout=HUB_S)
        except HfHubHTTPError as error:
            raise Refused(f"the hub has no model {source} that this page may load") from error
        except (OfflineModeIsEnabled, OSError, HTTPError) as error:
            if not isinstance(try_to_load_from_cache(source, "config.json"), str):
                raise Refused(f"{source} is not on this machine, and the hub cannot be reached from it") from error

    def source(self, name: str) -> str:
        """What `load_model` takes. Raises Refused."""
        if name == self.first or name in TINY_NAMES:
            return name
        if name.startswith(RUN):
            folder = self.shelf.models().get(name.removeprefix(RUN))
            if folder is not None:
                return str(folder.resolve())
        # A folder of this machine that is named like a hub id would be loaded instead.
        elif self.allow_hub and _HUB_ID.fullmatch(name) and not Path(name).exists():
            return name
        raise Refused(NOT_LISTED)
