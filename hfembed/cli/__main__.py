"""`python -m hfembed.cli` is `hfembed`."""

from hfembed.cli import main

main()
