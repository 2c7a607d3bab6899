"""Flags of a GRPO run of seconds, for fixtures that share one run among the tests of a file."""

SMALL = ["--max_steps", "2", "--per_device_train_batch_size", "8", "--num_generations", "4", "--eval_limit", "4", "--logging_steps", "1", "--report_to", "none"]  # fmt: skip
