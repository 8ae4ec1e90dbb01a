"""Twins of the quantizers that published checkpoints hold: a state dict, and the family's own rule, slow and plain.

Each module gives `state_dict(seed, **shapes)`, `encode(state, x, **asked)` and `decode(state, indices, **asked)`,
where `asked` is what the file does not say. They know nothing of lfq_cli.
"""
