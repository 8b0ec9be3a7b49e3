"""Strategies of plain data: what stands where something else is wanted."""

import copy
import functools
import math
from collections.abc import Iterator

from hypothesis import strategies as st


def nested(depth: int) -> list:
    """Lists in lists."""
    data: list = []
    for _ in range(depth):
        data = [data]

    return data


#: Widths are small or hopeless, so that none is allocated in earnest.
ODD = [
    *(None, True, False),
    *(-1, 0, 1, 3, 1.5, -0.5, math.nan, math.inf, -math.inf, 2**62, 10**400),
    *("", "x", "nan", "1", "é" * 300, b"\x00"),
    *([], [[]], [0], [-1], ["x"], [None], [3, 4], [1.5, 2], nested(50)),
    *({}, {"a": {"b": 1}}, {"type": "Nope"}, {"type": 3}, {"type": "Stack"}),
    *({"type": "Affine"}, {"type": "Gaussian"}, {"type": "GaussianNoise", "sigma": 0.1}),
]
CHANGES = ["replace", "replace", "replace", "delete", "rename", "wrap", "repeat"]


@st.composite
def odd(draw):
    """One of the odd values, by its number: they hold NaN, which equals nothing."""
    return copy.deepcopy(ODD[draw(st.integers(0, len(ODD) - 1))])


def places(data: object, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values in nested plain data."""
    yield path

    items = []
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def mutated(draw, data, most=2):
    """Plain data with a value replaced, deleted, renamed, wrapped or repeated, once or twice."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, most))):
        paths = [path for path in places(data) if path]
        if not paths:
            return draw(odd())

        *way, key = draw(st.sampled_from(paths))
        parent = functools.reduce(lambda part, step: part[step], way, data)
        draw(changed(parent, key))

    return data


@st.composite
def changed(draw, parent, key):
    """The parent, in which the value of the key is no longer what it was."""
    how = draw(st.sampled_from(CHANGES))
    value = draw(odd())

    if how == "delete":
        del parent[key]
    elif how == "rename" and isinstance(parent, dict):
        name = draw(st.sampled_from(["x", "self", "cls", "type", f"{key}_", ""]))
        parent[name] = parent.pop(key)
    elif how == "wrap":
        parent[key] = [parent[key]]
    elif how == "repeat" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = value

    return parent
