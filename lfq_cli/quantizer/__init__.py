"""What a checkpoint says of its quantizer: a frozen record of config and weights. No framework, no files."""

from __future__ import annotations

from lfq_cli.quantizer.config import bits_of_size, canonical_json, from_config
from lfq_cli.quantizer.record import LAYOUT_KEYS, OPTIONS, Quantizer

__all__ = ["LAYOUT_KEYS", "OPTIONS", "Quantizer", "bits_of_size", "canonical_json", "from_config"]
