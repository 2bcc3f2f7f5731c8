"""``python -m fastat``."""

from fastat.cli import main

if __name__ == "__main__":
    main()
