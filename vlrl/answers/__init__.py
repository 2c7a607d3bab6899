"""From a completion's text to a typed answer, or None: boxes, labels, plans, steps. Never raises, never guesses."""
