"""What to run: one file per stage; parse, wire, check, exit."""
