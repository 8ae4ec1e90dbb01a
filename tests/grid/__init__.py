"""Every quantizer (quantizers.py) on every way through the program (routes.py); tests/test_grid.py runs the cells.

A new case, or a new command or call, is one more row of its table.
"""
