"""Compile the scoring kernel for all x86-64 processors, to come along to executors in the wheel."""

from pathlib import Path

from afm.kernels import compiled, scoring

FOLDER = Path(__file__).parents[1] / "afm" / "kernels" / "portable"

if __name__ == "__main__":
    for old in FOLDER.glob("*.so"):
        old.unlink()
    compiled.compile_portable(compiled.source_of(*scoring.SOURCE), FOLDER)
