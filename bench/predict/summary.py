"""What is shown of predictions: tables, the model's error where it was measured, and what it assumes."""

from collections.abc import Iterator, Mapping, Sequence

from bench.predict.against import compared, comparison_table
from bench.predict.model import Algorithm
from bench.predict.options import PredictSettings
from bench.predict.prediction import FittedLink, Prediction, rehearsed_case, times_alone
from bench.predict.rehearsal import Rehearsal
from bench.predict.schedule import Kind, Transfer
from bench.report.cells import NONE, milliseconds, percent
from bench.report.means import mean_notes
from bench.suite.cases import AXES
from gan.display.tables import Printer, Table
from gan.files.environment import num_available_cores
from gan.process.memory import size_in_words

ALGORITHMS = {
    Algorithm.RING: "a ring",
    Algorithm.TREE: "two binary trees",
    Algorithm.BEST: "a ring or two binary trees, whichever is faster for the message",
}


def show_predictions(
    settings: PredictSettings,
    outcomes: Sequence[Prediction],
    rehearsals: Mapping[int, Rehearsal],
    link: FittedLink | None,
    *,
    wide: bool,
) -> None:
    """Print predictions, and what to know of them."""
    printer = Printer(wide=wide, advice="--wide shows them")
    printer.table(table_of(settings, outcomes))
    if settings.measured:
        printer.table(comparison_table(compared(outcomes, settings.measured)))
    if outcomes[-1].step.transfers:
        printer.table(transfers_of(outcomes[-1]))
    if link is not None:
        printer.table(held_out_table(link))
    periods = {settings.case.recipe: outcomes[-1].step.num_steps}
    for note in [*mean_notes(periods), *memory_notes(rehearsals), *assumptions(settings, rehearsals, link)]:
        printer.note(note)


def table_of(settings: PredictSettings, outcomes: Sequence[Prediction]) -> Table:
    """Return a row for each number of processes."""
    columns = ["processes", "nodes", "ms/step", "compute", "exposed", "overlap: all", "none", "images/s"]
    rows = [
        [
            f"{one.num_processes:,}",
            f"{one.num_nodes:,}",
            milliseconds(one.step.seconds),
            milliseconds(one.step.compute_seconds),
            milliseconds(one.step.exposed_seconds) if one.step.exposed_seconds else "0",
            milliseconds(one.step.least_seconds),
            milliseconds(one.step.most_seconds),
            f"{one.images_per_second:,.0f}",
            percent(one.efficiency),
            size_in_words(one.sent_bytes) if one.sent_bytes else NONE,
        ]
        for one in outcomes
    ]
    case = settings.case
    what = " ".join(case.labels(name for name in AXES if name not in ("num_processes", "scaling")))
    title = f"PREDICTION, not measured: {case.scaling} scaling of {what}, times in ms"
    return Table(
        title, [*columns, "efficiency", "summed"], 1, rows, ("summed", "nodes", "images/s", "none", "overlap: all")
    )


def transfers_of(outcome: Prediction) -> Table:
    """Return a row for each bucket of gradients, in the order in which they are sent, and one for each other sum.

    Of steps that are unlike one another, the first is shown.
    """
    columns = ["message", "bytes", "ready at", "waits", "takes", "there at"]
    rows = []
    counts = {"discriminator": 0, "generator": 0}
    of_first = [transfer for transfer in outcome.step.transfers if transfer.step == 0]
    for transfer in of_first:
        event = transfer.event
        if event.kind is not Kind.BUCKET:
            continue
        counts[event.network] += 1
        waits = transfer.began_seconds - transfer.ready_seconds
        times = (transfer.ready_seconds, waits, transfer.ended_seconds - transfer.began_seconds)
        cells = [milliseconds(seconds) if seconds else "0" for seconds in (*times, transfer.ended_seconds)]
        rows.append([f"{event.network} {counts[event.network]}", f"{event.num_bytes:,}", *cells])
    rows += _rows_of_sums([transfer for transfer in of_first if transfer.event.kind is not Kind.BUCKET])
    num_steps = outcome.step.num_steps
    step = "a step" if num_steps == 1 else f"the first of {num_steps} steps, in which every penalty is due"
    title = f"PREDICTION: what {outcome.num_processes:,} processes exchange in {step}, times in ms"
    return Table(title, columns, 1, rows)


def _rows_of_sums(transfers: Sequence[Transfer]) -> Iterator[list[str]]:
    """Yield a row for each name of sums that are waited for, of all sums of that name."""
    for name in dict.fromkeys(transfer.event.name for transfer in transfers):
        sums = [transfer for transfer in transfers if transfer.event.name == name]
        taken = sum(one.ended_seconds - one.began_seconds for one in sums)
        num_bytes = sum(one.event.num_bytes for one in sums)
        shown = name if len(sums) == 1 else f"{name} × {len(sums)}"
        yield [shown, f"{num_bytes:,}", NONE, NONE, milliseconds(taken), NONE]


def held_out_table(link: FittedLink) -> Table:
    """Return how a link that was fitted to two processes predicts the sums of more."""
    rows = [
        [
            f"{one.num_processes}",
            percent(one.large_error),
            percent(one.median_error),
            f"{one.worst:.2f}",
            size_in_words(one.worst_bytes),
        ]
        for one in link.held_out
    ]
    title = "median error of the model on measured sums that it was not fitted to"
    columns = ["processes", "from 1 MiB on", "all sizes", "farthest: predicted / measured", "at"]
    return Table(title, columns, 1, rows)


def memory_notes(rehearsals: Mapping[int, Rehearsal]) -> list[str]:
    """Return what the first of many processes takes beside a single one."""
    most = max(rehearsals)
    if most == 1:
        return []
    alone = rehearsals[1].peak_bytes
    return [
        f"memory, taken here: rank 0 of {most:,} processes peaks at {size_in_words(rehearsals[most].peak_bytes)}, "
        f"one process alone at {size_in_words(alone)}"
    ]


def assumptions(
    settings: PredictSettings, rehearsals: Mapping[int, Rehearsal], link: FittedLink | None
) -> list[str]:
    """Return what the predictions assume, a line each."""
    lines = [_of_link(settings, link), _of_step(settings, rehearsals)]
    num_cores = num_available_cores()
    if (threads := settings.measured_threads or 0) > num_cores:
        lines.append(
            f"assumed: the parts of the step have the shares that they have here, where it took {num_cores} CPU "
            f"threads: this machine has no more cores, and the file has {threads} threads"
        )
    lines.append(
        "assumed: buckets and other sums are those that the step sends as rank 0 of so many processes, in that "
        "order; one message at a time has the whole link"
    )
    lines.append(
        "assumed: sums run beside the computation and do not slow it. On CPUs they take its cores: the truth lies "
        "between the columns of overlap"
    )
    lines.append(
        "assumed: all processes are equally fast, so nobody waits for the slowest; data are there in time"
    )
    return lines


def _of_link(settings: PredictSettings, link: FittedLink | None) -> str:
    if link is not None:
        rate = link.link.bytes_per_second / 1e9
        return (
            f"link: α = {link.link.latency_seconds * 1e6:.0f} µs, {rate:.2f} GB/s, fitted to gloo's rings of two "
            f"processes here. Assumed: more processes than the {link.num_cores} cores take turns"
        )
    assert settings.cluster is not None
    outer = settings.cluster.link
    inside = settings.cluster.node_link
    within = "one process a node"
    if inside is not None:
        per_node = settings.cluster.processes_per_node
        within = f"{per_node} processes a node with {_rate(inside.bytes_per_second)} and "
        within += f"{inside.latency_seconds * 1e6:g} µs among them"
    return (
        f"assumed: {_rate(outer.bytes_per_second)} and {outer.latency_seconds * 1e6:g} µs between nodes, reached "
        f"in full; {within}; sums by {ALGORITHMS[settings.algorithm]}; gathers by a ring"
    )


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:g} GB/s"


def _of_step(settings: PredictSettings, rehearsals: Mapping[int, Rehearsal]) -> str:
    taken = rehearsed_case(settings)
    if settings.measured:
        alone = ", ".join(milliseconds(settings.alone_seconds(size) or 0.0) for size in settings.sizes)
        line = f"computation: {alone} ms of one process alone in the file"
        if taken.device != settings.case.device:
            return f"{line}. Assumed: its parts have the shares that they have here, on {taken.device}"
        times = ", ".join(f"{times_alone(rehearsals, size):.2f}" for size in settings.sizes)
        return f"{line}, times {times}: so much longer rank 0 of so many computes here than one process"
    if settings.stored is None:
        return (
            f"computation: measured now, on this machine's {settings.case.device}, as rank 0 of so many processes"
        )
    divided = ", divided by the number of processes" if settings.case.scaling == "strong" else ""
    return (
        f"computation: {milliseconds(settings.stored.median())} ms of the file{divided}. Assumed: its parts have "
        f"the shares that they have here, on {taken.device} in {taken.precision}, in a step of rank 0 of two"
    )
