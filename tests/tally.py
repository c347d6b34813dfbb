"""What ``make test-faults`` counts: faults and what they cost, bad inputs and how they end."""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Kind:
    """Faults of a kind."""

    tried: int = 0
    survived: int = 0
    """After which all was as the test wanted it."""
    rows_lost: int = 0
    rows_doubled: int = 0
    """Rows that were there more often than they should have been, or should not have been."""

    def compare(self, wanted: Iterable[Hashable], found: Iterable[Hashable]) -> None:
        """Counts rows that are lost or doubled, and fails if any are.

        Args:
            wanted: The rows that should be there, in any order.
            found: Those that are.
        """
        wanted, found = Counter(wanted), Counter(found)
        lost, doubled = (wanted - found).total(), (found - wanted).total()
        self.rows_lost += lost
        self.rows_doubled += doubled
        assert (lost, doubled) == (0, 0), f"{lost} rows lost, {doubled} doubled"


@dataclass
class Inputs:
    """Bad inputs of a kind."""

    tried: int = 0
    unclear: int = 0
    """Which ended otherwise than in one clear message and an exit code that is not 0."""


@dataclass
class Tally:
    """The counts of a session, by kind."""

    faults: dict[str, Kind] = field(default_factory=dict)
    bad_inputs: dict[str, Inputs] = field(default_factory=dict)

    @contextmanager
    def fault(self, kind: str) -> Iterator[Kind]:
        """Counts a fault, as survived if the block does not fail.

        Args:
            kind: What is done, such as ``driver killed``.
        """
        counts = self.faults.setdefault(kind, Kind())
        counts.tried += 1
        yield counts
        counts.survived += 1

    @contextmanager
    def bad_input(self, kind: str) -> Iterator[None]:
        """Counts a bad input, as ending unclearly if the block, which looks at that, fails.

        Args:
            kind: What is bad, such as ``csv`` or ``yaml``.
        """
        counts = self.bad_inputs.setdefault(kind, Inputs())
        counts.tried += 1
        counts.unclear += 1
        yield
        counts.unclear -= 1

    def add(self, other: dict[str, dict[str, dict[str, int]]]) -> None:
        """Adds the counts of another session, as ``asdict`` gives them."""
        for name, counts in other["faults"].items():
            _add(self.faults.setdefault(name, Kind()), counts)
        for name, counts in other["bad_inputs"].items():
            _add(self.bad_inputs.setdefault(name, Inputs()), counts)

    def __bool__(self) -> bool:
        return bool(self.faults or self.bad_inputs)

    def totals(self) -> dict[str, int]:
        """The sums over all kinds."""
        kinds, inputs = self.faults.values(), self.bad_inputs.values()
        return {
            "faults tried": sum(k.tried for k in kinds),
            "survived": sum(k.survived for k in kinds),
            "rows lost": sum(k.rows_lost for k in kinds),
            "rows doubled": sum(k.rows_doubled for k in kinds),
            "bad inputs tried": sum(k.tried for k in inputs),
            "unclear endings": sum(k.unclear for k in inputs),
        }

    def table(self) -> str:
        """All counts, for people to read."""
        lines = [f"{'fault':<40} {'tried':>6} {'survived':>9} {'rows lost':>10} {'doubled':>8}"]
        lines += [
            f"{name:<40} {k.tried:>6} {k.survived:>9} {k.rows_lost:>10} {k.rows_doubled:>8}"
            for name, k in self.faults.items()
        ]
        lines += ["", f"{'bad input':<40} {'tried':>6} {'unclear':>9}"]
        lines += [f"{name:<40} {k.tried:>6} {k.unclear:>9}" for name, k in self.bad_inputs.items()]
        return "\n".join([*lines, "", ", ".join(f"{n} {c:,}" for n, c in self.totals().items())])

    def write(self, path: Path) -> None:
        """Leaves the counts as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"totals": self.totals(), **asdict(self)}, indent=2) + "\n")


def _add(kind: Kind | Inputs, counts: dict[str, int]) -> None:
    for what, count in counts.items():
        setattr(kind, what, getattr(kind, what) + count)
