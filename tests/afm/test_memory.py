"""Memory that steps need again and again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


TABLE = """
import re
import torch
from pathlib import Path
from afm.memory import keep_memory

{call}
table = torch.zeros(2**24)
sizes = re.findall(r"AnonHugePages: +(\\d+) kB", Path("/proc/self/smaps").read_text())
print(sum(map(int, sizes)))
"""


def printed(program: str, call: str) -> int:
    """What a program prints: in a process of its own, for the call cannot be undone."""
    command = [sys.executable, "-c", program.format(call=call)]
    # Tests before may have made the call in this process, which sets the variable.
    unset = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(command, env=unset, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_pages_are_kept_from_step_to_step() -> None:
    assert printed(STEPS, "keep_memory()") < 100
    assert printed(STEPS, "") > 1000


def test_tables_get_large_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("needs a system that gives large pages to those who ask, and to no other")
    assert printed(TABLE, "keep_memory()") > 32_000  # KiB, of 65,536
    assert printed(TABLE, "") < 32_000
