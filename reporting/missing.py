"""What a section says that cannot be made yet."""

from typing import Literal

Job = Literal["prepare", "train", "evaluate", "score"]


class MissingStep(Exception):
    """A step of the pipeline has not run yet: what is missing, and the job that makes it.

    Args:
        what: A sentence.
        job: The job to run.
        overrides: What it has to be told.
    """

    def __init__(self, what: str, job: Job, *overrides: str) -> None:
        super().__init__(what)
        self.what = what
        self.job: Job = job
        self.overrides = overrides
