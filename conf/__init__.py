"""What to do: one YAML per pipeline, checked once against :mod:`conf.schema`."""
