"""ViLBench's protocol: reward models choose among N solutions, and what they chose is graded. No torch, no network.

Source: ViLBench, EMNLP 2025, https://arxiv.org/abs/2503.20271. The released set is used where the user has it. What its authors
did not publish is listed in `UNKNOWN` and in every report; our choices for it are `CHOICES`. Not here: training a process
reward model (`vlrl.training.prm`), the engines that run a model (`vlrl.bench.engines`).
"""

from __future__ import annotations

VILBENCH_VERSION = "1"
RELEASED_ITEMS = {"MMStar": 150, "MathVista": 150, "MathVerse": 100, "MMMU-Pro": 100, "RealWorldQA": 100}
"""Source -> number of items in the released set."""
UNKNOWN = (
    "schema of the released items, and whether they carry candidates",
    "threshold of the selection of items",
    "prompts and temperatures of the generators",
    "prompt of the outcome reward model, and whether the judge of a step sees the steps before it",
    "tie rule, and which of 16 candidates a smaller N uses",
    "how final answers were extracted (the original MathVista and MathVerse evaluations ask a language model)",
    "tree search behind ViLReward-73K; head, loss, learning rate and epochs of ViLPRM",
    "licence of the ViLBench set",
    "why GPT-4o with chain of thought has 27.3 in the abstract and 30.0 in the figure",
)
CHOICES = {
    "ties": "expected accuracy under uniform choice among the highest; the first index in a second column",
    "subset": "the first N candidates by index; the mean over 20 seeded random subsets in a second column",
    "grading": "letters, numbers and short texts by rules, no language model; nothing extracted counts as wrong",
    "intervals": "95 % bootstrap over items, 2000 resamples, seed 0",
}
SELECTION_BIAS = "The set was selected where process rewards beat outcome rewards: it favours process reward models by design."


def benchmark_name(sources: dict[str, int], is_release: bool) -> str:
    """The name of the benchmark in reports: "ViLBench" only for the 600 released items with their numbers by source."""
    return "ViLBench" if is_release and sources == RELEASED_ITEMS else "ViLBench protocol, own items"
