"""One file an annotation format that `data_prep/annotations.py` reads: how it is recognised, and how it is read."""
