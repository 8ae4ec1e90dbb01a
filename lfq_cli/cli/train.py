"""`lfq train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display

if TYPE_CHECKING:
    from lfq_cli.training.levels import Shape

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT", parser=options.place, help="Tensor files, tar shards, .parquet files, folders or globs."
    ),
]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        metavar="N",
        min=1,
        max=4096,
        help="Bits per vector. If given alone, several shapes are tried, and the best is used.",
    ),
]
CodebookSize = Annotated[
    int | None, typer.Option("--codebook-size", metavar="K", help="Codes of one codebook or level, a power of two.")
]
NumCodebooks = Annotated[
    int | None,
    typer.Option(
        "--num-codebooks", metavar="C", min=1, help="Codebooks of one plain LFQ.", rich_help_panel="Quantizer"
    ),
]
NumQuantizers = Annotated[
    int | None,
    typer.Option(
        "--num-quantizers",
        metavar="Q",
        min=1,
        help="Levels: each encodes the residual of the levels before it.",
        rich_help_panel="Quantizer",
    ),
]
Plain = Annotated[bool, typer.Option("--plain", help="One level with one codebook of all bits: a plain LFQ.")]
Spherical = Annotated[
    bool,
    typer.Option(
        "--spherical", help="Codes on the unit sphere (BSQ); bits stay the same.", rich_help_panel="Quantizer"
    ),
]
ObjectiveOption = Annotated[
    Literal["reconstruction", "tokens"],
    typer.Option("--objective", help="reconstruction: least error; tokens: codes used evenly, by the entropy loss."),
]
EntropyWeight = Annotated[
    float | None,
    typer.Option(
        "--entropy-weight",
        metavar="W",
        min=0,
        help="Weight of the entropy loss; default: 0, with --objective tokens 3.",
    ),
]
DiversityGamma = Annotated[
    float | None,
    typer.Option(
        "--diversity-gamma",
        metavar="G",
        min=0,
        help="Weight of the batch entropy in that loss; default: 1, with --objective tokens 8.",
    ),
]
CommitmentWeight = Annotated[
    float, typer.Option("--commitment-weight", metavar="W", min=0, help="Weight of the distance of latents to codes.")
]
InitOption = Annotated[
    Literal["itq", "pca", "random"] | None,
    typer.Option("--init", help="Directions to start from; default: itq, with --objective tokens pca."),
]
Steps = Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Number of training steps.")]
Minutes = Annotated[
    float | None, typer.Option("--minutes", metavar="M", min=0.01, help="Train for this long, instead of --steps.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", min=1, help="Vectors in a step; default: 1024, with --objective tokens 2048."
    ),
]
Rate = Annotated[
    float,
    typer.Option(
        "--lr",
        metavar="R",
        min=1e-6,
        max=10,
        help="Learning rate: size of a step relative to the size of each array.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Same seed, same bytes (CPU).")]
Holdout = Annotated[
    float,
    typer.Option(
        "--holdout", metavar="SHARE", min=0.0001, max=0.9, help="Share of vectors to evaluate on, not trained on."
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue an interrupted run; fail if there is none. Default: continue if there is one."
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="OUT", parser=options.path, help="Draw the run in .png, .svg or .pdf; needs lfq-cli[plot]."
    ),
]

_BY_OBJECTIVE: dict[str, dict[str, Any]] = {
    "reconstruction": {"entropy_weight": 0.0, "diversity_gamma": 1.0, "init": "itq", "batch_size": 1024},
    "tokens": {"entropy_weight": 3.0, "diversity_gamma": 8.0, "init": "pca", "batch_size": 2048},
}
"""What options are that are not set."""


@takes_display
def train(
    inputs: Inputs,
    output: options.Native,
    bits: Bits = None,
    codebook_size: CodebookSize = None,
    num_codebooks: NumCodebooks = None,
    num_quantizers: NumQuantizers = None,
    plain: Plain = False,
    spherical: Spherical = False,
    objective: ObjectiveOption = "reconstruction",
    entropy_weight: EntropyWeight = None,
    diversity_gamma: DiversityGamma = None,
    commitment_weight: CommitmentWeight = 0.0,
    init: InitOption = None,
    steps: Steps = 2000,
    minutes: Minutes = None,
    batch_size: BatchSize = None,
    lr: Rate = 0.1,
    seed: Seed = 0,
    holdout: Holdout = 0.05,
    tensor: options.Tensors = None,
    layout: options.LayoutOption = "auto",
    channel_axis: options.ChannelAxis = None,
    device: options.Device = "cpu",
    resume: Resume = False,
    overwrite: options.Overwrite = False,
    plot: Plot = None,
    *,
    display: Display,
) -> None:
    """Train a quantizer on your own vectors, in minutes.

    The result is a checkpoint for all other commands. `lfq train embeddings.npy --bits 32 -o my.safetensors` tries
    several shapes (levels × bits), trains the best, and reports which share of the variance of held-out vectors it
    leaves unexplained, compared with PCA + sign and ITQ. An interrupted run leaves the best result so far at NATIVE,
    and the same command resumes it. --json prints one object per line: each try, each evaluation, the result.
    docs/training.md says what to do about collapse.
    """
    from lfq_cli.cli.render.training import train_and_show
    from lfq_cli.jobs.train import TrainOptions
    from lfq_cli.training.recipe import Recipe

    level, codebooks = _shape(bits, codebook_size, num_codebooks, num_quantizers, plain=plain, objective=objective)
    given = {
        "entropy_weight": entropy_weight,
        "diversity_gamma": diversity_gamma,
        "init": init,
        "batch_size": batch_size,
    }
    settled = _BY_OBJECTIVE[objective] | {name: value for name, value in given.items() if value is not None}
    recipe = Recipe(
        bits=level.total if level is not None else bits or 0,
        shape=level,
        num_codebooks=codebooks,
        spherical=spherical,
        objective=objective,
        commitment_weight=commitment_weight,
        steps=steps,
        minutes=minutes,
        rate=lr,
        holdout=holdout,
        seed=seed,
        **settled,
    )
    where = options.where_features_are(layout, channel_axis)
    chosen = TrainOptions(recipe, tuple(tensor or ()), where, device, resume, overwrite)
    if plot is not None:
        from lfq_cli.report.training import check_plot

        check_plot(plot, overwrite=overwrite)
    report = train_and_show(inputs, output, chosen, display)
    if plot is not None:
        from lfq_cli.report.training import write_plot

        write_plot(report.history, report.tries, report.metrics.baselines, plot, overwrite=overwrite)


def _shape(
    bits: int | None,
    codebook_size: int | None,
    num_codebooks: int | None,
    num_quantizers: int | None,
    *,
    plain: bool,
    objective: str,
) -> tuple[Shape | None, int]:
    """(bits of each level, or None if the best are to be found; codebooks per level) from the options.

    Raises OptionError if they do not determine the bits, or contradict each other.
    """
    from lfq_cli.errors import OptionError
    from lfq_cli.quantizer.config import bits_of_size
    from lfq_cli.training.levels import Shape

    if bits is None and codebook_size is None:
        raise OptionError("how many bits should a vector have?", "--bits N, or --codebook-size K")
    parts = (num_codebooks or 1) * (num_quantizers or 1)
    each = None if codebook_size is None else bits_of_size(codebook_size)
    if each is None and bits is not None:
        if bits % parts:
            raise OptionError(f"--bits {bits} cannot be shared by {parts} codebooks or levels", "give a multiple")
        each = bits // parts
    assert each is not None
    if bits is not None and bits != each * parts:
        raise OptionError(f"--bits {bits} are not {parts} × {each} bits", "leave --bits or --codebook-size out")
    if plain and parts > 1:
        raise OptionError("--plain is one level with one codebook", "leave --num-codebooks and --num-quantizers out")
    if num_codebooks is not None and num_quantizers is not None and num_codebooks > 1 and num_quantizers > 1:
        raise OptionError("levels have one codebook each", "leave --num-codebooks or --num-quantizers out")
    decided = plain or codebook_size is not None or num_codebooks is not None or num_quantizers is not None
    if not decided and objective == "reconstruction":
        return None, 1
    if each > _MAX_CODEBOOK_BITS:
        raise OptionError(
            f"one codebook of {each} bits; an index holds {_MAX_CODEBOOK_BITS}", "--num-codebooks, or --num-quantizers"
        )
    levels = num_quantizers or 1
    return Shape(levels, each * parts // levels), num_codebooks or 1


_MAX_CODEBOOK_BITS = 64
