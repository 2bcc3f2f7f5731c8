"""Contests: ways to compute the same thing, checked and then timed in turns, on a machine that is described."""
