"""`python -m vlrl.bench` and `torchrun -m vlrl.bench`."""

import sys

from vlrl.bench import main

sys.exit(main())
