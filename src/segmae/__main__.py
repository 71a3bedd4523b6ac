"""`python -m segmae` is the command `segmae`."""

from segmae.cli import main

main()
