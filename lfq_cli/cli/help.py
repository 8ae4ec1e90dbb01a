"""What --help shows: options in groups, and two examples at its end.

Plain text: rich would triple what `lfq --help` costs, and eat [brackets].
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

ARGUMENTS, OWN = "Arguments", "Options"

GROUPS: dict[str, tuple[str, ...]] = {
    ARGUMENTS: (),
    "Input": (
        "--tensor",
        "--layout",
        "--channel-axis",
        "--nan",
        "--stacked",
        "--carry",
        "--carry-text",
        "--ragged",
        "--skip-bad",
        "--checkpoint",
        "--source",
        "--holdout",
    ),
    "Output": (
        "--output",
        "--packing",
        "--index-dtype",
        "--dtype",
        "--format",
        "--samples-per-file",
        "--file-size",
        "--part-rows",
        "--append",
        "--split",
        "--save",
        "--stats",
        "--csv",
        "--plot",
        "--html",
        "--overwrite",
        "--fsync",
        "--dry-run",
    ),
    "Quantizer": ("--bits", "--codebook-size", "--plain"),
    OWN: (),
    "Work": (
        "--device",
        "--compute-dtype",
        "--threads",
        "--memory",
        "--shard",
        "--ray",
        "--ray-num-cpus",
        "--ray-num-gpus",
        "--status",
        "--fail-fast",
    ),
    "Checkpoint facts (what the file does not say)": (
        "--module",
        "--family",
        "--codebook-scale",
        "--spherical",
        "--soft-clamp",
        "--num-codebooks",
        "--num-quantizers",
        "--codebook-dims",
        "--keep-num-codebooks-dim",
        "--bit-order",
        "--cosine",
        "--cosine-scale",
    ),
    "Display": ("--json", "--quiet", "--verbose", "--no-progress", "--help"),
}
"""Heading -> options of any command. What is in no group stands under "Options": it is the command's own.

`rich_help_panel` of an option names another group, where a command uses the name for something else.
"""

_GROUP_OF = {option: heading for heading, options in GROUPS.items() for option in options}

EXAMPLES: dict[str, tuple[str, str]] = {
    "encode": (
        "lfq encode lfq.safetensors latents -o codes",
        "lfq encode lfq.safetensors latents -o codes --samples-per-file 10000 --channel-axis 0",
    ),
    "decode": (
        "lfq decode lfq.safetensors codes -o decoded",
        "lfq decode lfq.safetensors one.codes.safetensors -o one.npy --format npy --dtype float16",
    ),
    "stats": ("lfq stats codes", "lfq stats codes --compare other_codes --json"),
    "export": (
        "lfq export webdataset codes -o shards --labels label",
        "lfq export bin codes -o data --codebook-dims 9,9 --split train=0.99,val=0.01",
    ),
    "export-codebook": (
        "lfq export-codebook lfq.safetensors -o codebook.safetensors",
        "lfq export-codebook lfq.safetensors -o first.npy --range 0:1024",
    ),
    "inspect": ("lfq inspect model.ckpt", "lfq inspect codes latents.npy lfq.safetensors --json"),
    "import": (
        "lfq import model.ckpt -o lfq.safetensors",
        "lfq import model.pt -o lfq.safetensors --module tokenizer.quantizer --codebook-scale 1",
    ),
    "verify": (
        "lfq verify codes",
        "lfq verify codes --checkpoint lfq.safetensors --source latents --sample 100000",
    ),
    "train": (
        "lfq train embeddings.npy --bits 32 -o lfq.safetensors",
        "lfq train latents -o lfq.safetensors --bits 18 --plain --objective tokens --channel-axis 1",
    ),
    "merge": (
        "lfq merge parts -o all.codes.safetensors",
        "lfq merge codes -o larger --file-size 256MiB",
    ),
    "split": (
        "lfq split all.codes.safetensors -o parts --samples-per-file 1000",
        "lfq split all.codes.safetensors -o parts --file-size 64MiB",
    ),
}
"""Two for each command."""


class GroupedCommand(TyperCommand):
    """A command whose help shows its options in groups."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """As README.md has it: `[OPTIONS] CHECKPOINT INPUT...`. typer's own is `[OPTIONS] {CHECKPOINT} {INPUT}`."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return ["[OPTIONS]", *(f"{each.metavar}{'...' * (each.nargs == -1)}" for each in arguments)]

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Writes a section for each group that has an option."""
        found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                found.setdefault(_group_of(parameter), []).append(record)
        for heading, records in found.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Writes the examples, each on one line however long it is."""
        with formatter.section("Examples"):
            for line in EXAMPLES[self.name or ""]:
                formatter.write(f"  {line}\n")


def _group_of(parameter: Any) -> str:
    """The heading for an argument or option."""
    if parameter.param_type_name == "argument":
        return ARGUMENTS
    panel: str | None = getattr(parameter, "rich_help_panel", None)
    return panel or next((_GROUP_OF[name] for name in parameter.opts if name in _GROUP_OF), OWN)
