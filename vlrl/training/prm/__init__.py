"""Training and using a process reward model: a vision-language model with a head that gives each step of a solution a value.

Reads ViLReward-73K's format. In reports its name is *ViLReward-trained PRM (ours)*: the recipe of ViLPRM is not published
beyond its base model and scalar step values. Not here: choosing among solutions (`vlrl.bench.vilbench`).
"""

from __future__ import annotations
