"""The command line: commands, what each reads and writes by default, and how it ends."""
