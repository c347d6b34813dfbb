"""What can be wrong with the data or its description."""


class DataError(Exception):
    """The data cannot be used as the configuration says.

    The message names table, field or rule, and the remedy.
    """
