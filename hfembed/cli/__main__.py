"""`python -m hfembed.cli` is `hfembed`."""

import sys

from hfembed.cli import main

sys.argv[0] = "hfembed"  # the name that results.json gives the command
main()
