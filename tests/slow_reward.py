"""A reward that takes its time, so that a run which a test looks at leaves the machine to the page and the browser."""

import time


def slowly(text, sample):
    time.sleep(0.1)
    return len(text) % 7 / 7
