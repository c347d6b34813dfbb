"""The Spark side: raw logs in, encoded Delta tables out. Never imports torch."""
