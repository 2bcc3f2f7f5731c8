"""What several rooms need: threat models, keyed random numbers, files, groups of processes."""

__all__ = ["distributed", "files", "foreign_json", "keyed", "threat"]
