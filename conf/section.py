"""What all parts of the configuration have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

MOST = 2**31 - 1
"""The greatest of numbers that count things: what Spark's and Arrow's 32 bits hold."""
LONG = 2**63
LARGEST, LEAST = 3.4028234663852886e38, 1.1754943508222875e-38
"""The greatest number of 32 bits, and the least above 0 of full precision: models compute in
these."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=128)]
Scalar = str | int | float | bool


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
