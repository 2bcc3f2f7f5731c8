"""Runs the suites: each in a process of its own, or everything that needs a GPU in one command."""
