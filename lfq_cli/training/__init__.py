"""Learning a quantizer from vectors: what `lfq train` does between reading and writing.

One pass takes moments, a sample and the held-out vectors (survey.py). Coordinates without empty directions (space.py)
are where baselines.py sets the bars, start.py begins, shapes.py tries which levels do best, and run.py trains them:
batches.py, loss.py, adam.py, by the schedules of recipe.py. record.py makes the checkpoint's quantizer of the result,
runfile.py keeps what a run needs to go on. Knows numbers, not files: source.py says what it asks of them.

Imports torch: what uses it is imported late.
"""
