"""The errors that a user can meet. Messages say what, where, found and expected; the hint says what to do next."""

from __future__ import annotations


class LfqError(Exception):
    """Something outside this program is not as it should be: a file, an option, a device."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class OptionError(LfqError):
    """Options that contradict each other or the inputs (exit code 2)."""


class CheckpointError(LfqError):
    """A checkpoint that cannot be read, says too little, or is not a lookup-free quantizer."""


class TensorError(LfqError):
    """A tensor file that cannot be read, or a tensor that does not fit the checkpoint."""


class CodesFileError(LfqError):
    """A codes file that is damaged, of another version, or made with another checkpoint."""


class CodesUnreadableError(CodesFileError):
    """A codes file that the system refuses to read, or that lacks the requested tensor."""


class OtherCheckpointError(CodesFileError):
    """A codes file that was made with another checkpoint."""


class OutputError(LfqError):
    """An output that cannot be written, or whose name is taken."""


class ExistsError(OutputError):
    """An output that already exists and may not be replaced."""


class DeviceError(LfqError):
    """A device that does not exist or cannot be used."""


class LfqNote(UserWarning):
    """A note about a run that continues: a warning in Python, a line on stderr in the command line."""
