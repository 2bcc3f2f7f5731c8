"""Benchmarks: every kernel and attack beside what it replaces, in one run on the same inputs.

``python -m bench`` runs them; :mod:`bench.__main__` says with which options and where the results go. ``suites`` hold
``contests`` between ours and its ``peers``, ``runners`` run them, ``reports`` show what came out. Besides: ``kernels``
(the compiled CUDA code), ``cost_model`` (what an attack's time is made of), ``rates`` (of training, of a theory curve).
"""
