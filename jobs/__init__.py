"""The doors: each job parses its arguments, loads its config, calls a room and reports."""
