"""``python -m fastat.theory.memorization``."""

from fastat.theory.memorization.experiment import main

main()
