"""The torch side: encoded Delta tables in, models and scores out. Never imports pyspark."""
