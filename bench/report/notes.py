"""What to know about the figures: the verdict, measured peaks, doubtful cases, and what a session lacks."""

from collections import Counter
from collections.abc import Mapping, Sequence

from bench.report.best import best_settings
from bench.report.means import mean_notes
from bench.results.case_result import CaseResult
from bench.results.exposure import exposure
from bench.results.figures import peak
from bench.results.file import MissingCase, Results, SessionSummary
from bench.results.phases import attribution
from bench.results.warnings import Doubt, doubts_of, failed_checks, undecided_checks
from bench.subjects.load import short_name
from gan.files.text import counted


def verdict_notes(results: Sequence[CaseResult], session: SessionSummary) -> list[str]:
    """Return what to read first: whether all was measured and may be trusted, then what failed, case by case."""
    failed = {result.name: complaints for result in results if (complaints := failed_checks(result))}
    undecided = {result.name: complaints for result in results if (complaints := undecided_checks(result))}
    parts = [f"{'complete' if session.complete else 'INCOMPLETE'}, {counted(len(results), 'case')}"]
    if failed:
        parts.append(f"checks FAIL in {counted(len(failed), 'case')}")
    elif any(result.checks for result in results):
        parts.append(f"checks undecided in {counted(len(undecided), 'case')}" if undecided else "all checks pass")
    if doubtful := [doubts for result in results if (doubts := doubts_of(result))]:
        kinds = ", ".join(dict.fromkeys(doubt.kind for doubts in doubtful for doubt in doubts))
        parts.append(f"{counted(len(doubtful), 'case')} doubtful ({kinds})")
    lines = ["; ".join(parts)]
    for judged in (failed, undecided):
        lines += [f"{name}: {complaint}" for name, complaints in judged.items() for complaint in complaints]
    return lines + session_notes(session)


def notes(results: Sequence[CaseResult]) -> list[str]:
    """Return what is doubtful and in which cases, the peaks that were measured, and more about the figures."""
    lines = doubt_notes(results)
    for device, precision in dict.fromkeys((result.case.device, result.case.precision) for result in results):
        chosen = [
            result for result in results if (result.case.device, result.case.precision) == (device, precision)
        ]
        product_flops = [flops for result in chosen if (flops := peak(result, "peak_product"))]
        copied_bytes = [copied for result in chosen if (copied := peak(result, "peak_copy"))]
        if product_flops and copied_bytes:
            lines.append(
                f"{device}, {precision}: matrix products up to {max(product_flops) / 1e9:,.0f} GFLOP/s, "
                f"copies up to {max(copied_bytes) / 1e9:,.1f} GB/s, measured in the same processes"
            )
    lines += best_settings(results)
    lines += small_notes(results)
    lines += mean_notes({result.name: result.period for result in results})
    return lines + host_notes(results) + gpu_notes(results) + phase_notes(results) + subject_notes(results)


def doubt_notes(results: Sequence[CaseResult]) -> list[str]:
    """Return a line for each kind of doubt, with all its cases and what to do about them."""
    cases: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for doubt in doubts_of(result):
            cases.setdefault((doubt.kind, doubt.advice), []).append(_doubtful(result, doubt))
    return [f"{kind}: {', '.join(names)}: {advice}" for (kind, advice), names in cases.items()]


def _doubtful(result: CaseResult, doubt: Doubt) -> str:
    return f"{result.name} ({doubt.amount})" if doubt.amount else result.name


def small_notes(results: Sequence[CaseResult]) -> list[str]:
    """Return which rows were measured with small networks."""
    names = dict.fromkeys(result.case.label("recipe") for result in results if result.case.is_small)
    if not names:
        return []
    return [f"small networks, so other GANs than their rows: {', '.join(names)}: the file has their settings"]


def host_notes(results: Sequence[CaseResult]) -> list[str]:
    """Return which hosts the cases ran on whose processes were spread, and what these hosts are."""
    cases: dict[str, list[str]] = {}
    for result in results:
        if result.hosts:
            hosts = result.hosts
            alike = len({host.line for host in hosts}) == 1
            names = ", ".join(host.name if alike else f"{host.name} ({host.line})" for host in hosts)
            where = f"on {len(hosts)} hosts, {names}{f', all alike: {hosts[0].line}' if alike else ''}"
            cases.setdefault(where, []).append(result.name)
    return [f"{where}: {', '.join(names)}" for where, names in cases.items()]


def gpu_notes(results: Sequence[CaseResult]) -> list[str]:
    """Return what the GPUs of all cases did together, and why facts of them are absent."""
    gpus = [gpu for result in results for gpu in result.gpus]
    lines = [f"no clocks, power or energy of the GPU: {reason}" for reason in {gpu.absent for gpu in gpus} - {""}]
    read = [gpu for gpu in gpus if not gpu.absent]
    during = [reading for gpu in read for reading in (*gpu.during, gpu.busy)]
    parts = [
        _span("SM clock", [one.sm_mhz for one in during], [gpu.limits.most_sm_mhz for gpu in read], "MHz"),
        _span("power", [one.power_watts for one in during], [gpu.limits.power_limit_watts for gpu in read], "W"),
        _span("temperature", [one.temperature_celsius for one in during], [], "°C"),
    ]
    throttling = [reading.throttling for reading in during if reading.throttling is not None]
    reasons = Counter(reason for reading in throttling for reason in reading)
    parts += [f"{reason} in {count} of {len(throttling)} readings" for reason, count in reasons.items()]
    said = "; ".join(filter(None, parts))
    return [*lines, f"GPU while measured: {said}"] if said else lines


def _span(name: str, values: Sequence[float | None], limits: Sequence[float | None], unit: str) -> str:
    """Say from what to what a fact went, and its limit; nothing if it is not known."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    most = max((limit for limit in limits if limit), default=None)
    return f"{name} {min(known):,.0f} to {max(known):,.0f}{f' of {most:,.0f}' if most else ''} {unit}"


def phase_notes(results: Sequence[CaseResult]) -> list[str]:
    """Return how far the parts of each case's step add up to it, and what telling them apart costs."""
    lines = []
    for result in results:
        if divided := attribution(result):
            ratio = divided.disturbance
            times = f"{ratio.estimate:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
            parts, told = ("parts", "messages were timed") if exposure(result) else ("phases", "they were marked")
            lines.append(
                f"{result.name}: {parts} add up to {divided.covered:.1%} of the steps in which {told}; such a "
                f"step takes {times} times as long as an untouched one"
            )
        ranks = (rank for launch in result.launches for rank in launch)  # rank 0's clock is the reference: 0
        if error_seconds := max(rank.facts.clock_error_seconds for rank in ranks):
            lines.append(
                f"{result.name}: the clocks of its machines agree to {1e6 * error_seconds:.0f} µs, by which "
                "exposed and waiting may be off for every message"
            )
    return lines


def subject_notes(results: Sequence[CaseResult]) -> list[str]:
    """Return what subjects besides the core hold in memory, and what of them is left out and why."""
    lines: dict[str, None] = {}
    for result in results:
        facts = result.facts
        sizes = {"weights": facts.weights_bytes, "optimizers": facts.optimizer_bytes}
        if held := [f"{name} of {_sizes(num_bytes)}" for name, num_bytes in sizes.items() if num_bytes]:
            lines[f"{result.name}: holds {' and '.join(held)}"] = None
        for figure, reason in facts.left_out.items():
            lines[f"{result.case.workload} {short_name(result.case.subject)}: no {figure}: {reason}"] = None
    return list(lines)


def _sizes(num_bytes: Mapping[str, int]) -> str:
    parts = ", ".join(f"{name} {value / 2**20:.1f}" for name, value in num_bytes.items())
    return f"{sum(num_bytes.values()) / 2**20:.1f} MiB ({parts})"


def session_notes(session: SessionSummary) -> list[str]:
    """Return what a session lacks."""
    lines = [] if session.complete else ["INCOMPLETE: the session was interrupted, or cases failed"]
    for failure in session.failed:
        first_line = next(iter(failure.reason.splitlines()), "")
        lines.append(f"failed: {failure.case}: {first_line}")
    return lines + skipped_notes(session.skipped)


def skipped_notes(skipped: Sequence[MissingCase]) -> list[str]:
    """Return each reason for which cases were skipped, and the number of these cases."""
    reasons = Counter(missing.reason for missing in skipped)
    return [f"skipped: {count} case(s): {reason}" for reason, count in reasons.items()]


def heading(file: Results) -> str:
    """Return a file's suite and time."""
    return f"{file.session.suite}, {file.environment.time[:16].replace('T', ' ')} UTC"
