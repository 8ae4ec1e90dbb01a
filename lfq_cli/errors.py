"""The errors a user can cause or meet. Each says what, where, found and expected; the hint says what to do next."""

from __future__ import annotations


class LfqError(Exception):
    """Something outside this program is not as it has to be: a file, an option, a device."""

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
    """A codes file that is damaged, of another version, or made by another checkpoint."""


class CodesUnreadableError(CodesFileError):
    """A codes file that the system does not let us read, or without the tensor that was asked for."""


class OtherCheckpointError(CodesFileError):
    """A codes file that another checkpoint made."""


class OutputError(LfqError):
    """An output that cannot be written, or that stands in the way."""


class ExistsError(OutputError):
    """An output that is there already and may not be replaced."""


class DeviceError(LfqError):
    """A device that is not there."""


class LfqNote(UserWarning):
    """Something that people should know of a run that goes on: warned from the library, a line of the command's."""
