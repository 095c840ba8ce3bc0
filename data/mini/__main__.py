"""Entry point of `python -m data.mini`."""

import sys

from data.mini.world import main

sys.exit(main())
