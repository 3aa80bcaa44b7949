"""`python -m rsbatch`."""

import sys

from rsbatch.cli import main

sys.exit(main())
