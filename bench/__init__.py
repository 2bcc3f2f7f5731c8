"""Benchmarks: every kernel and attack beside what it replaces, in one run on the same inputs.

``python -m bench`` runs them; :mod:`bench.__main__` says with which options and where the results go.
"""
