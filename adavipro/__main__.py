"""`python -m adavipro`, as torchrun starts it."""

from adavipro.cli import main

main()
