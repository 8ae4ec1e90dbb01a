"""What `lfq inspect` says of checkpoints, tensor files and codes files."""

from __future__ import annotations

from collections.abc import Sequence

from lfq_cli.cli.messages import printable, shape, size
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.checkpoints import facts_table
from lfq_cli.cli.render.console import MOST_ROWS, heading, more_rows, new_table, note, print_json, print_table
from lfq_cli.cli.render.training_record import training_table
from lfq_cli.errors import LfqError
from lfq_cli.jobs.inspect import CheckpointView, CodesView, QuantizerView, SamplesView, TensorsView, View, as_json
from lfq_cli.wording import counted


def show_inspection(views: Sequence[View], display: Display) -> None:
    """What each path holds; of many only the first, unless --verbose is given."""
    if display.json:
        print_json({"paths": [as_json(view) for view in views]})
        return
    if display.quiet:
        return
    shown = views if display.verbose else views[:MOST_ROWS]
    for view in shown:
        if isinstance(view, CodesView):
            _show_codes(view)
        elif isinstance(view, TensorsView):
            _show_tensors(view)
        else:
            _show_checkpoint(view)
    if len(shown) < len(views):
        note(f"lfq: {counted(len(views), 'file')}{more_rows(len(shown), len(views))}")


def _show_checkpoint(view: CheckpointView) -> None:
    quantizers = counted(len(view.quantizers), "quantizer") if view.quantizers else "no quantizer"
    heading(f"{view.path}: checkpoint, {quantizers}")
    for item in view.quantizers:
        _show_quantizer(item)
    if isinstance(view.training, LfqError):
        heading(f"  {view.training.message.removeprefix(f'{view.path}: ')}")
    elif view.training is not None:
        heading("  made by lfq train")
        print_table(training_table(view.training))


def _show_quantizer(view: QuantizerView) -> None:
    where = f"module {view.found.module!r}, " if view.found.module else ""
    shown_by = f", shown by {', '.join(view.found.shown_by[:4])}" if view.found.shown_by else ""
    if len(view.found.shown_by) > 4:
        shown_by += f" and {len(view.found.shown_by) - 4} more"
    if view.quantizer is None:
        heading(f"  {where}family {view.found.family}{shown_by}: {view.error.message if view.error else ''}")
        if view.error is not None and view.error.hint:
            heading(f"    hint: {view.error.hint}")
        return
    heading(f"  {where}family {view.found.family}{shown_by}")
    print_table(facts_table(view.quantizer))


def _show_tensors(view: TensorsView) -> None:
    heading(f"{view.path}: tensors")
    if view.no_quantizer is not None:
        heading(f"  {view.no_quantizer.message.removeprefix(f'{view.path}: ')}")
        heading(f"    hint: {view.no_quantizer.hint}")
    table = new_table("name", "dtype", "shape", *(["encoded"] if any(t.encodes for t in view.tensors) else []))
    for tensor in view.tensors:
        cells = [] if tensor.encodes is None else [tensor.encodes]
        table.add_row(printable(tensor.name), tensor.dtype, shape(tensor.shape), *map(printable, cells))
    print_table(table)
    for name, reason in view.left_alone.items():
        heading(f"  {name!r} is not a plain tensor: {reason}")


def _show_codes(view: CodesView) -> None:
    header = view.header
    heading(f"{view.path}: codes, {size(view.nbytes)}, computed in {header.compute_dtype}")
    heading(f"  checkpoint sha256 {header.checkpoint_sha256}")
    table = new_table("tensor", "indices", "bits each", "order", "packing", "stored", "from")
    for info in header.tensors.values():
        source = f"{info.source.dtype} {shape(info.source.shape)} axis {info.source.channel_axis}"
        if info.part is not None:
            source += f", rows {info.part.first:,} to {info.part.last:,} of {info.part.of:,}"
        bits = "+".join(map(str, info.codebook_dims))
        stored = f"{info.dtype} {size(info.stored_bytes)}"
        table.add_row(printable(info.name), shape(info.shape), bits, info.bit_order, info.packing, stored, source)
    print_table(table)
    if view.samples is not None:
        _show_samples(view.samples)


def _show_samples(samples: SamplesView) -> None:
    more = ", ..." if samples.count > len(samples.first_keys) else ""
    heading(f"  {counted(samples.count, 'sample')}: {', '.join(map(repr, samples.first_keys))}{more}")
    for name, (dtype, sizes) in samples.carried.items():
        heading(f"  carried: {name!r}, {dtype} {shape(sizes)}")
    for name in samples.texts:
        heading(f"  carried text: {name!r}")
    heading(
        f"  made from {counted(samples.inputs, 'input')}"
        + (f", {counted(samples.skipped, 'bad sample')} left out" if samples.skipped else "")
    )
