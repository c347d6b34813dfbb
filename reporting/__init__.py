"""The page about a run: what the tables and models say, gathered, drawn and rendered."""
