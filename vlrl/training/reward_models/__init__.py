"""Reward models: held by a run that they pay, and trained on preferences (`--task rm`)."""
