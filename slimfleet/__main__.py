"""``python -m slimfleet`` is the command ``slimfleet``."""

import sys

from slimfleet.cli import main

sys.exit(main())
