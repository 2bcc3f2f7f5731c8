"""A process that dies around a write, within the process."""

import os
from itertools import count


class Killed(BaseException):
    """Nothing in the library catches this: as sudden as a kill."""


def kill_at(monkeypatch, call):
    """Has os.replace raise Killed at the call of this number, counted from 0: after an even one, before an odd one."""
    replace_file, numbers = os.replace, count()

    def replace(*names):
        number = next(numbers)
        if number == call and call % 2:
            raise Killed
        replace_file(*names)
        if number == call:
            raise Killed

    monkeypatch.setattr(os, "replace", replace)
