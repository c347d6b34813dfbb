"""Files and configurations that nobody should give a job, made anew by each test run.

A case is a pipeline of one log with one thing wrong, or odd. It says how ``prepare`` may end on it:
in a result, in one clear message, or in either.
"""

from collections.abc import Sequence

from tests.jobs.bad_inputs import configurations, files, values
from tests.jobs.bad_inputs.case import Case


def data_cases() -> Sequence[Case]:
    """Logs, and expressions of what is in them."""
    return [*values.cases(), *files.cases()]


def all_cases() -> Sequence[Case]:
    """The whole corpus, names unique."""
    cases = [*configurations.cases(), *data_cases()]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    return cases
