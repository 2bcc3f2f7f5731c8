"""Experiments on trained networks: each has a command that goes on where it stopped, and a folder of results."""
