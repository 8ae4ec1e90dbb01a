"""What lfq costs against its floor and its peers: `make bench`, `make bench-smoke`, `python -m benchmarks --help`."""
