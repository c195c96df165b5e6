"""A plugin, as `pytest -p tests.bench.stub_session bench`: stubs measure the cases, not the core."""

from functools import partial

from bench.runner import session
from bench.runner.case_runner import CaseRunner
from tests.bench import stub

session.CaseRunner = partial(CaseRunner, command=stub.command)  # type: ignore[misc, assignment]
