"""What a report says once of times that are means over several steps."""

from collections.abc import Mapping


def mean_notes(periods: Mapping[str, int]) -> list[str]:
    """Return a line for each number of steps over which times are means; none where all steps are alike.

    >>> mean_notes({"mlp": 1, "stylegan2": 16, "stylegan2-ada": 16})
    ['mean over 16 steps, in some of which a penalty is due: stylegan2, stylegan2-ada']

    Args:
        periods: Steps after which costs repeat, by name.
    """
    names: dict[int, list[str]] = {}
    for name, period in periods.items():
        names.setdefault(period, []).append(name)
    return [
        f"mean over {period} steps, in some of which a penalty is due: {', '.join(of_period)}"
        for period, of_period in sorted(names.items())
        if period > 1
    ]
