"""The command line: one file a command, options only; the work is done in the rooms below."""
