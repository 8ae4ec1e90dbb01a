"""What the commands do to files, one module a command: open, check, run the pipeline, finish. Knows no terminal."""
