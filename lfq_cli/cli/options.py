"""Options that several commands share, as named annotations; groups of them become one parameter."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from lfq_cli.checkpoints import Facts
    from lfq_cli.cluster import Cluster


def place(text: str) -> str:
    """A path, URL or glob as it was given. Raises BadParameter for a URL that lfq cannot reach."""
    path(text)
    return text


def path(text: str) -> Path:
    """A path or URL. Raises BadParameter for a URL that lfq cannot reach, and for an empty path: the current folder."""
    if not text:
        raise typer.BadParameter("'' is not a path")
    if "://" not in text:
        return Path(text)

    from lfq_cli.errors import OptionError
    from lfq_cli.storage.urlpath import path_of

    try:
        return path_of(text)
    except OptionError as error:
        raise typer.BadParameter(error.message) from None


Checkpoint: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        parser=path,
        help="Native checkpoint (.safetensors or folder), or a state dict in .safetensors, .pt, .pth or .ckpt.",
    ),
]
Device: TypeAlias = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.", show_default=True)
]
ComputeDtype: TypeAlias = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option("--compute-dtype", help="Precision of projections; anything but float32 changes tokens."),
]
Tensors: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--tensor", metavar="GLOB", help="Take only tensors whose name matches; may be repeated."),
]
LayoutOption: TypeAlias = Annotated[
    Literal["auto", "channel-first", "channel-last"],
    typer.Option(
        "--layout", help="Where the features are; auto: as the checkpoint says, else axis 1 if there are 4 or more."
    ),
]
ChannelAxis: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--channel-axis",
        metavar="N",
        help="Number of the axis with the features, instead of --layout: 0 for one sample [C, ...], -1 for the last.",
    ),
]
Levels: TypeAlias = Annotated[
    int | None,
    typer.Option("--num-quantizers", metavar="N", min=1, help="Use only the first N levels of a residual quantizer."),
]
SamplesPerFile: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--samples-per-file",
        metavar="N",
        min=1,
        help="Pack the samples of all inputs, N in each file of the folder OUT: 00000.codes.safetensors, ...",
    ),
]
FileSize: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--file-size",
        metavar="SIZE",
        help="Put as many samples into each file as fit in this size, such as 256MiB or 2GB.",
    ),
]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
Fsync: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--fsync/--no-fsync",
        help="Wait for the disk after each output; without it, a power cut may lose the latest outputs.",
    ),
]
FailFast: TypeAlias = Annotated[
    bool, typer.Option("--fail-fast", help="Stop at the first input that fails; default: continue with the rest.")
]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Show what would be done and write nothing.")]


@dataclass(frozen=True)
class Display:
    """What to show: JSON on stdout, nothing but errors, more, no progress bar."""

    json: bool
    quiet: bool
    verbose: bool
    no_progress: bool


_FACT_OPTIONS: dict[str, Any] = {
    "module": Annotated[
        str | None,
        typer.Option("--module", metavar="PATH", help="Which quantizer of a larger model."),
    ],
    "family": Annotated[
        str | None,
        typer.Option(
            "--family", metavar="NAME", help="Which project's state dict it is; default: recognised by its tensors."
        ),
    ],
    "codebook_scale": Annotated[
        float | None,
        typer.Option("--codebook-scale", metavar="S", help="Magnitude of a code's coordinates."),
    ],
    "spherical": Annotated[
        bool | None,
        typer.Option("--spherical/--no-spherical", help="Codes on the unit sphere (BSQ)."),
    ],
    "soft_clamp": Annotated[
        str | None,
        typer.Option("--soft-clamp", metavar="V|none", help="Soft clamp of the inputs: tanh(z / V) * V."),
    ],
    "num_codebooks": Annotated[
        int | None,
        typer.Option("--num-codebooks", metavar="C", min=1, help="Codebooks of one vector."),
    ],
    "codebook_dims": Annotated[
        str | None,
        typer.Option("--codebook-dims", metavar="D,D,…", help="Bits of each index of one vector, such as 6,12."),
    ],
    "keep_num_codebooks_dim": Annotated[
        bool | None,
        typer.Option(
            "--keep-num-codebooks-dim/--drop-num-codebooks-dim",
            help="Whether indices have an axis for the codebooks; default: if there are several.",
        ),
    ],
    "bit_order": Annotated[
        Literal["msb", "lsb"] | None,
        typer.Option("--bit-order", help="Whether channel 0 is an index's highest bit."),
    ],
    "cosine": Annotated[
        bool | None,
        typer.Option("--cosine/--no-cosine", help="Whether project_in is a cosine projection."),
    ],
    "cosine_scale": Annotated[
        float | None,
        typer.Option("--cosine-scale", metavar="S", help="Scale of the cosine projection."),
    ],
}
Native = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="NATIVE",
        parser=path,
        help="A name in .safetensors, or a folder, which is created.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N|auto",
        help="Do part I, counted from 0, of N equal parts; auto: from the environment of torchrun or SLURM.",
    ),
]
Cut = Annotated[
    str | None,
    typer.Option(
        "--codebook-dims",
        metavar="D,D,…",
        help="Cut each vector's bits into other indices, such as 9,9; default: as in the file.",
        rich_help_panel="Input",
    ),
]
Order = Annotated[
    Literal["msb", "lsb"] | None,
    typer.Option(
        "--bit-order",
        help="Which bit of an index comes first in a vector; default: as in the file.",
        rich_help_panel="Input",
    ),
]
_DISPLAY_OPTIONS: dict[str, Any] = {
    "json": Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and assumptions.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Print every file and what was left alone.")],
    "no_progress": Annotated[bool, typer.Option("--no-progress", help="No progress bar, even on a terminal.")],
}


_CLUSTER_OPTIONS: dict[str, Any] = {
    "ray": Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="local|auto|HOST:PORT",
            help="Use a Ray cluster: a new one on this machine, one that already runs here, or one at an address.",
        ),
    ],
    "ray_num_cpus": Annotated[
        float | None,
        typer.Option("--ray-num-cpus", metavar="N", min=0, help="CPUs (and threads) of each actor; default: 1."),
    ],
    "ray_num_gpus": Annotated[
        float | None, typer.Option("--ray-num-gpus", metavar="N", min=0, help="GPUs of each actor; default: 0.")
    ],
}


_THREAD_OPTIONS: dict[str, Any] = {
    "threads": Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            max=1024,
            help="Number of threads; default: one for each core that may be used.",
        ),
    ],
}


def takes_threads(command: Callable[..., None]) -> Callable[..., None]:
    """Adds to a command the option for the number of threads, which holds while it runs."""

    @wraps(command)
    def threaded(*, threads: int | None, **given: Any) -> None:
        from lfq_cli.cpus import use_threads

        with use_threads(threads):
            command(**given)

    signature = inspect.signature(command, eval_str=True)
    parameter = inspect.Parameter("threads", inspect.Parameter.KEYWORD_ONLY)
    threaded.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), parameter]
    )
    del threaded.__dict__["__wrapped__"]
    return _expand(threaded, "threads", _THREAD_OPTIONS, None, lambda threads: threads)


def takes_facts(command: Callable[..., None]) -> Callable[..., None]:
    """Adds to a command with a parameter `facts` the options for facts that a checkpoint does not state."""

    def build(**given: Any) -> Facts:
        from lfq_cli.checkpoints import Facts

        parsed = {"soft_clamp": _soft_clamp(given["soft_clamp"]), "codebook_dims": dims(given["codebook_dims"])}
        return Facts(**{**given, **parsed})

    return _expand(command, "facts", _FACT_OPTIONS, None, build)


def takes_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """Adds to a command with a parameter `cluster` the options for where else to work; None: nowhere."""

    def build(ray: str | None, ray_num_cpus: float | None, ray_num_gpus: float | None) -> Cluster | None:
        from lfq_cli.errors import OptionError

        if ray is None:
            if ray_num_cpus is not None or ray_num_gpus is not None:
                raise OptionError("--ray-num-cpus and --ray-num-gpus belong to --ray", "add --ray local, for one")
            return None
        from lfq_cli.cluster import Cluster

        return Cluster(ray, 1 if ray_num_cpus is None else ray_num_cpus, ray_num_gpus or 0)

    return _expand(command, "cluster", _CLUSTER_OPTIONS, None, build)


def takes_display(command: Callable[..., None]) -> Callable[..., None]:
    """Adds to a command with a parameter `display` the options for what to print."""

    def build(**given: bool) -> Display:
        _show_log(verbose=given["verbose"])
        return Display(**given)

    return _expand(command, "display", _DISPLAY_OPTIONS, False, build)


def _show_log(*, verbose: bool) -> None:
    """Prints the package's log messages on stderr: what was done to read the data, if wanted."""
    import logging

    from lfq_cli.cli.messages import printable

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            typer.echo(f"lfq: {printable(record.getMessage())}", err=True)

    logger = logging.getLogger("lfq_cli")
    logger.handlers[:] = [Lines()]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)


def _expand(
    command: Callable[..., None],
    parameter: str,
    options: dict[str, Any],
    default: Any,
    build: Callable[..., Any],
) -> Callable[..., None]:
    """The command with `parameter` replaced by `options`, whose values `build` combines."""

    @wraps(command)
    def expanded(**given: Any) -> None:
        group = {name: given.pop(name) for name in options}
        command(**given, **{parameter: build(**group)})

    signature = inspect.signature(command, eval_str=True)
    kept = [value for name, value in signature.parameters.items() if name != parameter]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation in options.items()
    ]
    parameters = [value.replace(kind=inspect.Parameter.KEYWORD_ONLY) for value in kept] + added
    expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {value.name: value.annotation for value in parameters}
    del expanded.__dict__["__wrapped__"]
    return expanded


def where_features_are(layout: str, channel_axis: int | None) -> Any:
    """The channel axis that --layout and --channel-axis specify. Raises OptionError if both are given."""
    if channel_axis is None:
        return None if layout == "auto" else layout
    if layout != "auto":
        from lfq_cli.errors import OptionError

        raise OptionError("--layout and --channel-axis both say where the features are", "leave one of them out")
    return channel_axis


def file_limits(samples_per_file: int | None, file_size: str | None) -> tuple[int | None, int | None]:
    """(samples, bytes) of a full file. Raises OptionError if both are given, BadParameter for an invalid size."""
    if samples_per_file is not None and file_size is not None:
        from lfq_cli.errors import OptionError

        raise OptionError("--samples-per-file and --file-size both say when a file is full", "leave one of them out")
    return samples_per_file, None if file_size is None else size(file_size, "--file-size")


_UNITS = {"": 1, "B": 1} | {f"{unit}B": 1000**k for k, unit in enumerate("KMGT", 1)}
_UNITS |= {f"{unit}iB": 1024**k for k, unit in enumerate("KMGT", 1)}


def size(text: str, option: str) -> int:
    """Bytes: a number with a unit, as 256MiB or 2GB. Raises BadParameter."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?i?B|)", text)
    nbytes = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if not nbytes:
        raise typer.BadParameter(f"{text!r} is not a size such as 256MiB or 2GB", param_hint=option)
    return nbytes


def dims(value: str | None) -> tuple[int, ...] | None:
    """The value of --codebook-dims."""
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.strip().isdecimal() and len(part) <= 8 and 1 <= int(part) <= 64 for part in parts):
        expected = "expected a list of bits, 1 to 64 each, such as 6,12"
        raise typer.BadParameter(f"{expected}; found {value!r}", param_hint="--codebook-dims")
    return tuple(int(part) for part in parts)


def _soft_clamp(value: str | None) -> float | Literal["none"] | None:
    if value is None or value == "none":
        return value  # type: ignore[return-value]
    try:
        return float(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is neither a number nor none", param_hint="--soft-clamp") from None
