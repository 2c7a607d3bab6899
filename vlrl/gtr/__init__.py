"""Guided thought reinforcement: a corrector judges and rewrites thoughts during RL, and thought tokens alone are imitated.

Source: GTR (arXiv 2503.08525). differs: made for GRPO, not PPO; masks by characters of the actual tokens; correctors are
bounded in time and tries. Not here: the policy term (`vlrl.training.grpo`).
"""

from vlrl.gtr.checkpoint import CheckpointCorrector
from vlrl.gtr.correction_set import CorrectionSet, Record
from vlrl.gtr.corrector import Correction, Corrector, SampleRequest, StepRequest
from vlrl.gtr.masks import MaskError, completion_mask, imitation_labels, thought_span, token_weights
from vlrl.gtr.oracle import OracleCorrector
from vlrl.gtr.remote import RemoteCorrector, RemoteOptions

__all__ = [
    "CheckpointCorrector",
    "Correction",
    "CorrectionSet",
    "Corrector",
    "MaskError",
    "OracleCorrector",
    "Record",
    "RemoteCorrector",
    "RemoteOptions",
    "SampleRequest",
    "StepRequest",
    "completion_mask",
    "imitation_labels",
    "thought_span",
    "token_weights",
]
