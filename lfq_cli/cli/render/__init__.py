"""What people see: progress, tables, JSON. The only package that imports rich; one module an idea.

stdout is data: a table, or one JSON object. Progress and notes go to stderr, and only to a terminal where they move.
Commands import the modules they need, and no others.
"""
