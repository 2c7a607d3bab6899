"""How the videos of a run are read and shown, from its flags: training, evaluation and every later stage go by it."""

from __future__ import annotations

from vlrl.models.videos import VideoReading
from vlrl.training.config import Config


def video_reading(config: Config) -> VideoReading:
    """Videos are shown as images, one a frame, wherever a part of the run has no way for videos: the completions that are
    learnt from would else be answers to something else."""
    prompts, grpo = config.prompts, config.grpo
    reasons = {
        "--video_as frames": prompts.video_as == "frames",
        "--use_vllm: vLLM is handed images alone": grpo.use_vllm,
        "--use_transformers_continuous_batching takes no videos": grpo.use_transformers_continuous_batching,
        "--corrector keeps images alone": config.guide.corrects,
    }
    why = next((reason for reason, holds in reasons.items() if holds), "")
    return VideoReading(prompts.video_fps, prompts.video_max_frames, why)
