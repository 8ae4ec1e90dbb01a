"""`python -m lfq_cli`: the command `lfq`."""

from lfq_cli.cli import main

if __name__ == "__main__":
    main()
