"""Everything around a training run: configuration, run folder, stages, checkpoints, report."""
