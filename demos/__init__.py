"""A page to see what models answer, what rewards say, how runs go, and to play the card games (`python demos/app.py`)."""
