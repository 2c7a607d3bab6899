"""`bench speed`: how fast and how large training steps, rewards and games are."""
