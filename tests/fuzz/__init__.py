"""Hostile arguments for every public function: a fuzzer, its judge, and scripts of what it finds.

    make fuzz ARGS="--calls 100000 --seed 1 --workers 2"

Each call is a function of the seed and its number alone. Half of them are valid, with odd shapes, layouts and numbers;
in the others one argument or several are replaced by hostile ones. Calls are made in processes of their own, so that a
crash or a hang is one more finding. What a call returns or raises is judged by rules that need no second implementation
(``judge.py``, in float64) and by what it left of its arguments, to the bit (``witness.py``). Findings are grouped,
minimized and printed as scripts that run by themselves. Not judged is whether a step goes the right way, or a loss has
the right value: that is for the tests of each function against its twin.

A new function is a line in ``calls.py``. A new kind of argument is one in ``valid.py``; hostile values for all kinds
are in ``hostile.py``.
"""
