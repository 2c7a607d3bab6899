"""Models: loading them, their inputs, generation, the shared layout of a group, value heads."""
