"""`python -m vlrl.bench` and `torchrun -m vlrl.bench`."""

import os
import sys

from vlrl.bench import main

done = main()
if "WORLD_SIZE" in os.environ:
    from vlrl.training.endings import leave

    leave(done)
sys.exit(done)
