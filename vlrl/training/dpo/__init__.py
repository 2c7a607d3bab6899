"""`--stage dpo`: a policy trained on preference pairs by TRL's DPOTrainer, and span by span (RLHF-V's dense DPO).

Not here: reward models of pairs, and making pairs (`vlrl bench sample`).
"""

from __future__ import annotations
