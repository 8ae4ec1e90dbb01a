"""The ends of float32, where clamping and normalising could change a sign."""

from __future__ import annotations

# Normalising and clamping keep signs, except at the extremes of float32: beside infinity or a huge value
# everything becomes 0, and a subnormal may. With inputs and scales in these bounds and at most 64 values in a norm,
# neither happens: 2^-80 / (2^3 * 2^40) * 2^-20 is still a normal number.
SAFE_INPUTS = 2.0**-80, 2.0**40
WHY_EXTREMES = "; infinite, huge or subnormal values in the input make it matter"
USUAL_SCALES = 2.0**-20, 2.0**20
