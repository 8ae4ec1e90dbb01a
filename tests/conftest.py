"""How hypothesis runs here: without a deadline, since a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("lfq", deadline=None)
settings.load_profile("lfq")
