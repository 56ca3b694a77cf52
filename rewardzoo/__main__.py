"""``python -m rewardzoo``."""

from .cli import main

main()
