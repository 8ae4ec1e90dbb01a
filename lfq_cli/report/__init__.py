"""Pictures and pages of figures, for people: `lfq stats --plot` and `--html`. Needs matplotlib, the extra [plot]."""
