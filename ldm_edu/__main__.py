"""``python -m ldm_edu`` is the command line."""

from ldm_edu.cli import main

main()
