"""`python -m tensorpool_async`: the command `tpa`."""

import sys

from tensorpool_async.cli import main


sys.exit(main())
