"""Rates that no suite measures, each by a command of its own: images per second of training, a curve of theory."""
