"""What can be wrong on the torch side. Every message says what, and the remedy."""


class ModelError(Exception):
    """Something about a model, its training or its tables; the parent of the errors below."""


class TableError(ModelError):
    """A Delta table cannot be trained on."""


class MetricError(ModelError):
    """A metric is not defined for these rows."""


class TrainError(ModelError):
    """A training run cannot go on."""


class ArtifactError(ModelError):
    """A model folder is missing, unfinished, damaged or made for other tables."""
