"""What may have become of a file: other contents, and JSON objects with one field of another kind."""

import json
import random
from collections.abc import Iterator
from typing import Any

HUGE = 10**400


def contents(whole: bytes) -> dict[str, bytes]:
    """Contents that stand in place of a file's, by what they are."""
    return {
        "empty": b"",
        "object": b"{}",
        "list": b"[]",
        "null": b"null",
        "text": b'"text"',
        "nested": b"[" * 100_000,
        "nested objects": b'{"a":' * 100_000,
        "half": whole[: len(whole) // 2],
        "random": random.Random(0).randbytes(1000),
        "surrogate": b'{"\\ud800": "\\ud800"}',
    }


def with_wrong_fields(value: Any) -> Iterator[tuple[str, str]]:
    """JSON texts of the value with one of its fields, at any depth, of another kind; and what has been changed."""
    for place in places(value):
        inside = at(value, place)
        others: list[Any] = [[[]]] if isinstance(inside, str | dict) else ["text", {}]
        if isinstance(inside, int | float) and not isinstance(inside, bool):
            others = ["text", HUGE, float("nan"), float("inf"), -float("inf")]
        for other in others:
            yield f"{'.'.join(map(str, place))} = {str(other)[:9]}", json.dumps(put(value, place, other))


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the fields of a JSON value are: of a list the first item stands for all."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """What is at a place."""
    for key in place:
        value = value[key]
    return value


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy of the JSON value with another one at the place."""
    copied = json.loads(json.dumps(value))
    at(copied, place[:-1])[place[-1]] = new
    return copied
