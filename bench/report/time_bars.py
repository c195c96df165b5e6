"""A bar for each case: where the time of its step goes, coarse above and fine below, as in a flame graph."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results.case_result import CaseResult
from bench.results.phases import attribution
from bench.results.profile import StepProfile
from gan.files.text import in_plot

COLOURS = {
    "forward": "#0072b2",
    "fakes": "#0072b2",
    "backward": "#d55e00",
    "optimizer": "#009e73",
    "data": "#cc79a7",
    "graph": "#56b4e9",
    "compute": "#0072b2",
    "exposed": "#d55e00",
    "waiting": "#cc79a7",
}
"""Of the parts of a step, and of its phases by their last word. The rest is grey."""
GREY = "#8c959f"
HOST = "host"
OTHERS = "others"
LEAST_LABELLED = 0.045
"""The least share of the step that has room for its name."""
LEAST_DRAWN = 0.01
"""The least share of the step of an operator that is drawn by itself."""
CHARACTERS_ACROSS = 105

Segment = tuple[str, str, float]
"""Name, kind and share of the step."""


def time_bars(results: Sequence[CaseResult]) -> Figure | None:
    """Draw a bar of one or two levels for each case that has phases or a profile; None if no case has."""
    bars = [(result, levels) for result in results if (levels := _levels(result))]
    if not bars:
        return None
    num_levels = sum(len(levels) for _, levels in bars)
    figure = Figure(figsize=(9, 0.9 + 0.34 * num_levels + 0.2 * len(bars)), layout="constrained")
    axes = figure.add_subplot(xlabel="% of the step", xlim=(0, 100))
    ticks: dict[float, str] = {}
    top = 0.0
    for result, levels in bars:
        ticks[top + (len(levels) - 1) / 2] = in_plot(result.name)
        for level in levels:
            _draw(axes, top, level)
            top += 1
        top += 0.6
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.invert_yaxis()
    return figure


def _levels(result: CaseResult) -> list[list[Segment]]:
    levels: list[list[Segment]] = []
    if divided := attribution(result):
        levels.append([(phase.name, phase.name.split()[-1], phase.share) for phase in divided.phases])
    if profile := result.facts.profile:
        parts = _parts(profile)
        if not levels:
            levels.append([(name, name, share) for name, share in parts.items()])
        levels.append(_operators(profile, parts))
    return levels


def _parts(profile: StepProfile) -> Mapping[str, float]:
    """Return the share of each part of the step, the host last."""
    shares: dict[str, float] = {}
    for operator in profile.operators:
        name = operator.part or OTHERS
        shares[name] = shares.get(name, 0.0) + operator.seconds / profile.seconds
    return {**shares, HOST: profile.gap_seconds / profile.seconds}


def _operators(profile: StepProfile, parts: Mapping[str, float]) -> list[Segment]:
    """Return the operators, those of a part below the part."""
    segments: list[Segment] = []
    for part, share in list(parts.items())[:-1]:
        drawn = [
            (operator.name.split("::")[-1], part, operator.seconds / profile.seconds)
            for operator in profile.operators
            if (operator.part or OTHERS) == part and operator.seconds >= LEAST_DRAWN * profile.seconds
        ]
        segments += [*drawn, (OTHERS, part, share - sum(width for _, _, width in drawn))]
    return [*segments, (HOST, HOST, parts[HOST])]


def _draw(axes: Axes, top: float, segments: Sequence[Segment]) -> None:
    left = 0.0
    for name, kind, share in segments:
        width = 100 * share
        axes.barh(top, width, 0.95, left=left, color=COLOURS.get(kind, GREY), edgecolor="white", linewidth=0.5)
        if share >= LEAST_LABELLED:
            most = int(CHARACTERS_ACROSS * share)
            label = in_plot(name if len(name) <= most else name[: most - 1] + "…")
            axes.text(left + width / 2, top, label, ha="center", va="center", fontsize=7, color="white")
        left += width
