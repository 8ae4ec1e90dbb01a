"""Plots and pages of statistics, for people: `lfq stats --plot` and `--html`. Needs matplotlib, the extra [plot]."""
