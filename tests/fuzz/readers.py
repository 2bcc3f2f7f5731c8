"""Every reader of files, on mutations of small genuine ones: it reads, or says in one line what is wrong with the file.

    python -m tests.fuzz.readers --seconds 600 --seed 1
    python -m tests.fuzz.readers --seed 1 --reader cifar --number 1234     (one of them again, with its traceback)

An input is a function of the seed, the reader and its number alone. Readers run in processes of their own, whose memory
and time are limited, so that a crash, a hang or a bomb is one more finding, and the next process goes on after it.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from .mutations import mutated
from .seeds import READERS, Reader

_SECONDS, _BYTES = 20, 2 << 30
"""What one input may take: time of the processor, and memory beyond that of the process at its start."""
_WAITING = 600
"""Seconds after which one that only waits is ended: many, for the machine may be loaded."""
_AT_ONCE = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=sorted(READERS))
    parser.add_argument("--number", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = sorted(READERS) if options.reader is None else [options.reader]
    with tempfile.TemporaryDirectory() as place:
        seeds = {}
        for name in names:
            (Path(place) / name).mkdir()
            seeds[name] = READERS[name].make(Path(place) / name)
        if options.number is not None:
            content = input_of(seeds[names[0]], options.seed, names[0], options.number)
            print(read_one(READERS[names[0]], Path(place) / names[0], content, show=True))
            return
        sys.exit(_all(names, seeds, Path(place), options.seconds, options.seed))


def _all(names: list[str], seeds: dict[str, list[bytes]], place: Path, seconds: float, seed: int) -> int:
    """Fuzzes until the time is over; the number of findings."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    next_number, findings, end = dict.fromkeys(names, 0), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for name in names:
            first = next_number[name]
            done, found = _in_a_process(name, seeds[name], place / name, seed, first)
            next_number[name] = max(number for number, _ in [*done, *found]) + 1
            for number, outcome in [*done, *found]:
                counts[name]["finding" if outcome not in ("read", "refused") else outcome] += 1
                if outcome not in ("read", "refused"):
                    findings += 1
                    print(f"{name}, seed {seed}, number {number}: {outcome}", flush=True)
    for name in names:
        print(f"{name:<14}", *(f"{counts[name][kind]:>7} {kind}" for kind in ("read", "refused", "finding")))
    print(f"seed {seed}: {sum(next_number.values())} inputs, {findings} findings")
    return min(findings, 1)


def _in_a_process(
    name: str, seeds: list[bytes], place: Path, seed: int, first: int
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """What became of the inputs from this number on, by their numbers, and of the one that ended the process, if one
    did."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _work(name, seeds, place, seed, first, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # never back into the parent's code, which removes the folder of both
    os.close(writing)
    with os.fdopen(reading) as lines:
        done = list(enumerate((line.rstrip("\n") for line in lines), first))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        return done, []
    ended = signal.Signals(-status).name if status < 0 else f"exit {status}"
    return done, [(first + min(len(done), _AT_ONCE - 1), f"the process ended: {ended}")]


def _work(name: str, seeds: list[bytes], place: Path, seed: int, first: int, out: int) -> None:
    """Reads inputs, and ends the process."""
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + _BYTES, own + _BYTES))
    for number in range(first, first + _AT_ONCE):
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        signal.setitimer(signal.ITIMER_REAL, _WAITING)
        outcome = read_one(READERS[name], place, input_of(seeds, seed, name, number), show=False)
        os.write(out, f"{outcome}\n".encode())
    os._exit(0)


def input_of(seeds: list[bytes], seed: int, name: str, number: int) -> bytes:
    draw = random.Random(f"{seed} {name} {number}")
    return mutated(draw.choice(seeds), seeds, draw)


def read_one(reader: Reader, place: Path, content: bytes, *, show: bool) -> str:
    """ "read", "refused", or what went wrong, on one line."""
    file = place / reader.file
    file.write_bytes(content)
    try:
        reader.read(file)
    except (OSError, ValueError) as error:
        text = str(error)
        if show:
            traceback.print_exc()
        if file.name not in text or len(text.splitlines()) > 1 or len(text) > 2000:
            return f"not one line that names the file: {type(error).__name__}: {text!r:.300}"
        return "refused"
    except BaseException as error:
        if show:
            traceback.print_exc()
        return f"{type(error).__name__}: {str(error)!r:.300}"
    return "read"


if __name__ == "__main__":
    main()
