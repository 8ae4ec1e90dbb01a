"""What people see: progress, tables, JSON. The only package that imports rich; one module per kind of output.

stdout is data: a table, or one JSON object. Progress and notes go to stderr; a progress bar only to a terminal.
Commands import only the modules they need.
"""
