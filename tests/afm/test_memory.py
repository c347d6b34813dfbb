"""Memory that steps need again and again."""

import subprocess
import sys

STEPS = """
import resource
import numpy as np
from afm.memory import keep_memory

{call}
for step in range(20):
    if step == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(size, np.uint8) for size in [3_000_000] * 8]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_pages_are_kept_from_step_to_step() -> None:
    """In a process of its own, for it cannot be undone."""

    def faults(call: str) -> int:
        command = [sys.executable, "-c", STEPS.format(call=call)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep_memory()") < 100
    assert faults("") > 1000
