"""`python -m vlrl.bench` and `torchrun -m vlrl.bench`."""

import os
import sys

from vlrl.bench import main

done = main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    from vlrl.train import leave

    leave(done)
sys.exit(done)
