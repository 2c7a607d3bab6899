"""Every reward by name.

A reward is a pure function of text and sample; what it needs besides is named in its `Reward.needs` and passed explicitly
(`vlrl.rewards.scoring`). Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

from vlrl.answers import kind
from vlrl.data.name_values import nearest
from vlrl.rewards import image_text, model_reward
from vlrl.rewards.cards import card_move, card_recognition, card_success
from vlrl.rewards.classification import cls_rl_accuracy, cls_rl_no_think, visual_rft_classification
from vlrl.rewards.confidence import calibrated_confidence
from vlrl.rewards.detection import iou_f1
from vlrl.rewards.formats import adaptive_think_format, json_format, rec_format, think_answer_format
from vlrl.rewards.implicit_reward import PRIME, is_prime
from vlrl.rewards.judge import guided_judge, llm_judge
from vlrl.rewards.judge_model import JUDGE, checked_judge, folder_judge, folder_words, video_problem
from vlrl.rewards.judge_votes import asks_endpoint, checked_votes, judge_words
from vlrl.rewards.length import cosine_length, repetition
from vlrl.rewards.mathvista import mathvista_match, mathvista_problem
from vlrl.rewards.options import options_of, with_options
from vlrl.rewards.planning import alphadrive_format, alphadrive_path, alphadrive_speed, plan_diversity
from vlrl.rewards.pointing import point_in_target
from vlrl.rewards.scoring import as_trl, score_rows
from vlrl.rewards.text import (
    exact_match,
    fuzzy_match,
    math_equal,
    math_problem,
    mcq,
    mcq_problem,
    yes_no,
    yes_no_problem,
)
from vlrl.rewards.user_functions import functions_listed, reward_from_file, reward_of_function
from vlrl.rewards.vision_r1 import vision_r1_format, vision_r1_precision, vision_r1_recall
from vlrl.rewards.visual_arft import answer_word_f1, arft_format, arft_step
from vlrl.rewards.visual_rft import visual_rft_confidence, visual_rft_giou, visual_rft_iou
from vlrl.rewards.vlm_r1 import vlm_r1_iou, vlm_r1_map, vlm_r1_map50, vlm_r1_odlength, vlm_r1_weighted
from vlrl.schema import Reward, RewardLike

__all__ = ["REWARDS", "as_trl", "load_reward", "options_of", "reward_name", "score_rows"]

_NOTHING, _TAGS, _GROUP, _STEP = frozenset[str](), frozenset({"tags"}), frozenset({"group"}), frozenset({"step"})
_BOXES, _ONE_BOX, _ANY_BOXES = frozenset({kind.BOXES}), frozenset({kind.BOX}), frozenset({kind.BOXES, kind.BOX})
_LABELS, _PLANS, _TEXTS, _CARDS = (frozenset({one}) for one in (kind.LABEL, kind.PLAN, kind.TEXT, kind.GAME))

REWARDS: dict[str, Reward] = {
    "iou_f1": Reward("iou_f1", iou_f1, 0.0, 1.0, _NOTHING, _BOXES),
    "visual_rft_iou": Reward("visual_rft_iou", visual_rft_iou, 0.0, 1.0, _NOTHING, _ANY_BOXES),
    "visual_rft_confidence": Reward("visual_rft_confidence", visual_rft_confidence, 0.0, 1.0, _NOTHING, _ANY_BOXES),
    "visual_rft_giou": Reward("visual_rft_giou", visual_rft_giou, 0.0, 2.0, _TAGS, _ONE_BOX),
    "vlm_r1_iou": Reward("vlm_r1_iou", vlm_r1_iou, 0.0, 1.0, _TAGS, _ONE_BOX),
    "vlm_r1_map": Reward("vlm_r1_map", vlm_r1_map, 0.0, 1.0, _TAGS, _BOXES),
    "vlm_r1_map50": Reward("vlm_r1_map50", vlm_r1_map50, 0.0, 1.0, _TAGS, _BOXES),
    "vlm_r1_odlength": Reward("vlm_r1_odlength", vlm_r1_odlength, 0.0, 1.0, _TAGS, _BOXES),
    "vlm_r1_weighted": Reward("vlm_r1_weighted", vlm_r1_weighted, 0.0, 1.0, _NOTHING, _BOXES),
    "vision_r1_precision": Reward("vision_r1_precision", vision_r1_precision, 0.0, 1.0, _STEP, _BOXES),
    "vision_r1_recall": Reward("vision_r1_recall", vision_r1_recall, 0.0, 1.0, _STEP, _BOXES),
    "vision_r1_format": Reward("vision_r1_format", vision_r1_format, 0.0, 1.0, _NOTHING, _BOXES),
    "json_format": Reward("json_format", json_format, 0.0, 1.0, _TAGS),
    "think_answer_format": Reward("think_answer_format", think_answer_format, 0.0, 1.0),
    "point_in_target": Reward("point_in_target", point_in_target, 0.0, 1.0, _NOTHING, _ONE_BOX),
    "adaptive_think_format": Reward("adaptive_think_format", adaptive_think_format, 0.0, 1.0),
    "rec_format": Reward("rec_format", rec_format, 0.0, 1.0, _TAGS, _ONE_BOX),
    "cls_rl_accuracy": Reward("cls_rl_accuracy", cls_rl_accuracy, 0.0, 1.0, _NOTHING, _LABELS),
    "cls_rl_no_think": Reward("cls_rl_no_think", cls_rl_no_think, 0.0, 1.0, _NOTHING, _LABELS),
    "visual_rft_classification": Reward("visual_rft_classification", visual_rft_classification, 0.0, 1.0, _TAGS, _LABELS),
    "mcq": Reward("mcq", mcq, 0.0, 1.0, _NOTHING, _TEXTS, mcq_problem),
    "yes_no": Reward("yes_no", yes_no, 0.0, 1.0, _NOTHING, _TEXTS, yes_no_problem),
    "exact_match": Reward("exact_match", exact_match, 0.0, 1.0, _NOTHING, _TEXTS),
    "mathvista_match": Reward("mathvista_match", mathvista_match, 0.0, 1.0, _NOTHING, _TEXTS, mathvista_problem),
    "fuzzy_match": Reward("fuzzy_match", fuzzy_match, 0.0, 1.0, _NOTHING, _TEXTS),
    "math_equal": Reward("math_equal", math_equal, 0.0, 1.0, _NOTHING, _TEXTS, math_problem),
    "llm_judge": Reward("llm_judge", llm_judge, 0.0, 1.0, frozenset({"network"}), _TEXTS),
    JUDGE: Reward(JUDGE, folder_judge, 0.0, 1.0, frozenset({"model"}), _TEXTS, video_problem),
    "calibrated_confidence": Reward(
        "calibrated_confidence", calibrated_confidence, -1.0, 1.0, _NOTHING, _TEXTS | _BOXES | _ONE_BOX
    ),
    "cosine_length": Reward("cosine_length", cosine_length, -0.5, 1.0, frozenset({"n_tokens", "base"})),
    "repetition": Reward("repetition", repetition, -1.0, 0.0),
    "token_f1": Reward("token_f1", answer_word_f1, 0.0, 1.0, _NOTHING, _TEXTS),
    "arft_step": Reward("arft_step", arft_step, 0.0, 1.0, _NOTHING, _TEXTS),
    "arft_format": Reward("arft_format", arft_format, 0.0, 1.0, _NOTHING, _TEXTS),
    "alphadrive_speed": Reward("alphadrive_speed", alphadrive_speed, -0.4, 1.4, _GROUP, _PLANS),
    "alphadrive_path": Reward("alphadrive_path", alphadrive_path, -0.4, 1.4, _GROUP, _PLANS),
    "plan_diversity": Reward("plan_diversity", plan_diversity, 0.0, 1.0, _GROUP, _PLANS),
    "alphadrive_format": Reward("alphadrive_format", alphadrive_format, 0.0, 1.0, _NOTHING, _PLANS),
    "rm": Reward("rm", model_reward.rm, -math.inf, math.inf, frozenset({"model"}), problem=model_reward.problem_of),
    "clip": Reward("clip", image_text.clip, -1.0, 1.0, frozenset({"model"}), _ANY_BOXES | _CARDS),
    "card_success": Reward("card_success", card_success, 0.0, 1.0, _NOTHING, _CARDS),
    "card_move": Reward("card_move", card_move, 0.0, 1.0, _NOTHING, _CARDS),
    "card_recognition": Reward("card_recognition", card_recognition, 0.0, 1.0, _NOTHING, _CARDS),
}


def reward_name(spec: RewardLike) -> str:
    """The name of the reward that `load_reward` makes of this."""
    if not isinstance(spec, str):
        return str(getattr(spec, "__name__", type(spec).__name__))
    _, own, rest = spec.partition(".py:")
    name, _, words = (rest if own else spec).partition(":")
    return "llm_judge" if name == JUDGE and not own and asks_endpoint(words) else name


def load_reward(spec: RewardLike) -> Reward:
    """A reward by name, or a user's function `(text, sample) -> float | bool | Score | None`: itself, or as
    `path/to/file.py:function`.

    Options follow a colon: `vision_r1_recall:adaptive=true,stage_step=300`, `my.py:mine:power=2`; for a reward that holds a
    model after its folder: `rm:runs/prm/final,outcome=mean`, `clip:FOLDER,baseline=an object`, `judge:FOLDER,votes=4`;
    `judge:NAME@URL,votes=4` is `llm_judge` with that model and address. Raises ValueError naming the nearest known reward or
    option, or what is wrong with the file or the function."""
    name = reward_name(spec)
    if not isinstance(spec, str):
        return reward_of_function(spec, name, f"reward {name}")
    first, _, options = spec.partition(":")
    if is_prime(spec):
        raise ValueError(
            f"reward {PRIME} is learnt by a run of GRPO from the rewards beside it; name it in --rewards of vlrl train"
        )
    if first == model_reward.RM:
        reward = with_options(REWARDS[first], model_reward.as_pairs(options))
        model_reward.check(reward)
        return reward
    if first == image_text.CLIP:
        return image_text.checked(with_options(REWARDS[first], model_reward.as_pairs(options, first, "a CLIP model")))
    if first == JUDGE and name == JUDGE:
        return checked_judge(with_options(REWARDS[first], folder_words(options)))
    if first == JUDGE:
        first, options = name, judge_words(options)
    if first == "llm_judge":
        return _guided(checked_votes(with_options(REWARDS[first], options)))
    if first in REWARDS:
        return with_options(REWARDS[first], options)
    path, colon, rest = spec.partition(".py:")
    file = path + ".py" if colon else first
    if file.endswith(".py") and not name.removeprefix(file):
        raise ValueError(f"reward {spec}: write {file}:FUNCTION{functions_listed(Path(file))}")
    if not colon:
        known = ", ".join(REWARDS)
        raise ValueError(f"unknown reward {first!r}{nearest(first, REWARDS)} (known: {known}, or path/to/file.py:function)")
    return reward_from_file(Path(path + ".py"), name, rest.partition(":")[2])


def _guided(reward: Reward) -> Reward:
    """A judge behind an endpoint with what its meta model asks for, where it has one: it holds a model, and scores batches."""
    options = model_reward.options_given(reward)
    if not options.get("meta"):
        return reward
    function = functools.partial(guided_judge, **options)
    return dataclasses.replace(reward, function=function, needs=reward.needs | {"model"}, problem=video_problem)
