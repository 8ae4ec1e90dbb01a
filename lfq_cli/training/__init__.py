"""Learning a quantizer from vectors: what `lfq train` does between reading and writing.

One pass over the data takes moments, a sample and the held-out vectors (survey.py). Everything else happens in
coordinates without empty directions (space.py): baselines.py computes PCA + sign and ITQ, start.py initialises levels,
shapes.py tries which shape does best, and run.py trains it (batches.py, loss.py, adam.py, with the schedules of
recipe.py). record.py makes a quantizer of the result, and runfile.py saves what is needed to resume a run. Knows
numbers, not files: source.py states what it needs from them.

Imports torch, so the modules that use this package import it late.
"""
