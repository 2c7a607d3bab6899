"""Numbers over a set: lists of graded predictions in, `Metric` records with a 95 % interval out.

One file a family of metrics, and `stats` for the intervals they share. Nothing here reads completions or files.
"""
