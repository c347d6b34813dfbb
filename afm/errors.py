"""What can be wrong on the torch side. Every message says what, and the remedy."""


class ModelError(Exception):
    """Something about a model, its training or its tables; the parent of the errors below."""


class TableError(ModelError):
    """A Delta table cannot be trained on."""


class MetricError(ModelError):
    """A metric is not defined for these rows."""


class TrainError(ModelError):
    """A training run cannot go on."""


class DivergedError(TrainError):
    """Losses or scores are no finite numbers any more. All ranks raise it, at the same place."""


class EndedEarly(TrainError):
    """Who watches a run has ended it. All ranks raise it, at the same place."""


class ArtifactError(ModelError):
    """A model folder is missing, unfinished, damaged or made for other tables."""
