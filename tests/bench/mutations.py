"""Damaged copies of what a JSON file says, drawn with a seed."""

import json
import random
from collections.abc import Iterator
from typing import Any

VALUES = (
    *(None, True, False, "", "x", "[/red]\x1b[31m$\\frac{$|<b>\n\ud800", [], [1], {}, {"a": 1}),
    *(float("nan"), float("inf"), float("-inf"), 10**400, 1e300, 1e23, 1e-320),
    *(-1, -0.5, 0, 0.5, 1, 2, 2.0, 3, 10**9),
)
Place = tuple[str | int, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where every part of a value is, the whole left out."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def mutations(data: Any, seed: int, count: int) -> Iterator[tuple[Any, str]]:
    """Yield copies with a part or two replaced, dropped, doubled or taken from elsewhere, and what was done."""
    rng = random.Random(seed)
    text, known = json.dumps(data), list(places(data))
    for _ in range(count):
        copy = json.loads(text)
        changes = [_change(copy, rng.choice(known), known, rng) for _ in range(rng.choice((1, 1, 1, 2)))]
        yield copy, "; ".join(changes)


def _change(data: Any, place: Place, known: list[Place], rng: random.Random) -> str:
    *way, last = place
    try:
        parent = _part(data, way)
        parent[last]
    except (LookupError, TypeError):
        return "nothing"  # the change before it took the place away
    kind = rng.choice(("replace", "replace", "drop", "double", "swap"))
    if kind == "drop":
        del parent[last]
    elif kind == "double" and isinstance(parent, list):
        parent.append(parent[last])
    elif kind == "swap":
        try:
            parent[last] = json.loads(json.dumps(_part(data, rng.choice(known))))
        except (LookupError, TypeError):
            return "nothing"
    else:
        parent[last] = rng.choice(VALUES)
    return f"{kind} {place}" + (f" by {parent[last]!r:.60}" if kind != "drop" else "")


def _part(data: Any, place: Any) -> Any:
    for key in place:
        data = data[key]
    return data
