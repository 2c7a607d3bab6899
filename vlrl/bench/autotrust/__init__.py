"""AutoTrust: the trustworthiness of a vision-language model that answers questions on driving (arXiv 2412.15206).

Reads the released question files, asks the questions, and scores every answer twice: as the released program does
(`reference`), and without its faults (`fixed`, the headline). The user brings the images. Not here: the engines that answer
(`vlrl.bench.engines`).
"""

from __future__ import annotations

from vlrl.bench.autotrust.parts import PARTS

__all__ = ["AUTOTRUST_VERSION", "PARTS"]
AUTOTRUST_VERSION = "1"
"""Increased when a change of prompts, scorers or metrics changes the meaning of a number."""
