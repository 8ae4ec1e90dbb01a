"""Saved file -> Quantizer: native checkpoints, and the state dicts of foreign models, a module for each family."""

from __future__ import annotations

from lfq_cli.checkpoints.facts import Facts
from lfq_cli.checkpoints.files import read_files
from lfq_cli.checkpoints.loader import Found, load, load_found, survey, training_record

__all__ = ["Facts", "Found", "load", "load_found", "read_files", "survey", "training_record"]
