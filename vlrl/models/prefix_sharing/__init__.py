"""One prompt and one image of a group run once, its G completions after them."""
