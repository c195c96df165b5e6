"""What a page shows of several sessions at once: a summary, and how they differ."""

import re
from collections.abc import Iterator, Sequence

from bench.report.cells import NONE, percent, ratio
from bench.report.columns import COLUMNS
from bench.report.compare import change_to_plain, conclusion_of
from bench.report.settings import TIMES_DEFAULT, stability_result, times_default
from bench.results.case_result import CaseResult
from bench.results.environment import hardware_of
from bench.results.figures import reached, roofline_fraction
from bench.results.file import Results
from bench.suite.cases import TRAINED_AXES, Case
from gan.display.tables import Table

SHARED_BY = ("num_processes", "num_hosts", "scaling")
"""Axes of the processes that share the work."""

Machine = tuple[str, ...]


def summary(files: Sequence[Results]) -> Table:
    """Return a row for each recipe and setting of each machine, from the newest session that measured its step."""
    newest: dict[tuple[Machine, Case], tuple[Results, CaseResult]] = {}
    for file in _by_time(files):
        for result in file.cases:
            if result.case.workload == "step":
                newest[machine_of(file), result.case] = (file, result)
    ratios = {id(file): times_default(file.cases) for file in files}
    machines = {machine_of(file) for file in files}
    rows = []
    for file, result in newest.values():
        bound = reached(result)
        shown = percent(roofline_fraction(result) if bound is None else bound)
        rows.append(
            [
                *_labels(result.case),
                ratio(result.times_plain),
                ratio(ratios[id(file)].get(result.name)),
                f"{shown} (one bound)" if bound is None and shown != NONE else shown,
                stability_of(result.case, file.cases),
                session_name(file, files),
                *([", ".join(machine_of(file))] if len(machines) > 1 else []),
            ]
        )
    columns = ["recipe", "setting", "× plain", TIMES_DEFAULT, "reached", "stability", "session"]
    columns += ["machine"] if len(machines) > 1 else []
    return Table("Newest step of each recipe and setting", columns, 2, rows)


def stability_of(case: Case, results: Sequence[CaseResult]) -> str:
    """Return the verdict of a session's stability tests on a recipe in a setting; a dash without one."""
    result = stability_result(case, results)
    return NONE if result is None else COLUMNS["verdict"](result)


def sessions(files: Sequence[Results]) -> Iterator[Table]:
    """Yield a table of × plain for each machine with several sessions: a row per step, a column per session."""
    machines: dict[Machine, list[Results]] = {}
    for file in _by_time(files):
        machines.setdefault(machine_of(file), []).append(file)
    for machine, of_machine in machines.items():
        if len(of_machine) > 1:
            yield _sessions_table(machine, of_machine, files)


def _sessions_table(machine: Machine, files: Sequence[Results], all_files: Sequence[Results]) -> Table:
    measured: dict[Case, list[CaseResult | None]] = {}
    for index, file in enumerate(files):
        for result in file.cases:
            if result.case.workload == "step":
                measured.setdefault(result.case, [None] * len(files))[index] = result
    rows = []
    for case, results in measured.items():
        cells = [NONE if result is None else ratio(result.times_plain) for result in results]
        rows.append([*_labels(case), *cells, _change([result for result in results if result])])
    names = [session_name(file, all_files) for file in files]
    columns = ["recipe", "setting", *names, "newest beside the one before"]
    return Table(f"× plain on {', '.join(machine)}", columns, 2, rows)


def _change(results: Sequence[CaseResult]) -> str:
    if len(results) < 2:
        return NONE
    before, newest = results[-2:]
    return conclusion_of(change_to_plain(before, newest), disturbed=before.disturbed or newest.disturbed)


def _labels(case: Case) -> tuple[str, str]:
    """Return what is trained, and the setting in which."""
    trained = case.labels(name for name in TRAINED_AXES if name not in ("device", *SHARED_BY))
    shared_by = case.labels(SHARED_BY) if case.num_processes > 1 else []
    return " ".join(trained), " ".join([case.device, case.setting, *shared_by])


def machine_of(file: Results) -> Machine:
    """Return the processor of a session, and its GPUs."""
    return hardware_of(file.environment.cpu, file.environment.gpus)


def session_name(file: Results, files: Sequence[Results]) -> str:
    """Return the number or the name of a session's file; its path if another file has the same."""
    name = _short_name(file)
    alike = {str(other.path) for other in files if _short_name(other) == name}
    return str(file.path.with_suffix("")) if len(alike) > 1 else name


def _short_name(file: Results) -> str:
    number = re.match(r"\d{4,}(?=_)", file.path.stem)
    return number[0] if number else file.path.stem


def _by_time(files: Sequence[Results]) -> list[Results]:
    return sorted(files, key=lambda file: file.environment.time)
