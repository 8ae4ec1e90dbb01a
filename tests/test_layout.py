"""layout.py against the twin and numpy's own indexing: any shape, any layout, any block size."""

import numpy as np
import pytest
import twin
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli import layout
from lfq_cli.layout import Geometry

shapes = st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple)
wanted = st.sampled_from([None, True, False])
block_sizes = st.integers(1, 64) | st.integers(1, 1 << 14)
geometries = st.builds(Geometry, st.integers(0, 60), st.integers(0, 20), st.integers(0, 60))


def positions_of(geometry, block):
    """The numbers of the block's vectors, in the order in which the block holds them."""
    return np.arange(geometry.vectors).reshape(geometry.outer, geometry.inner)[block.outer, block.inner].reshape(-1)


@given(geometries, block_sizes, st.booleans())
def test_blocks_hold_every_vector_once_and_in_order(geometry, block_values, whole_items):
    blocks = list(geometry.blocks(block_values, whole_items=whole_items))
    held = [positions_of(geometry, block) for block in blocks]
    assert np.concatenate([np.empty(0, int), *held]).tolist() == list(range(geometry.vectors))
    assert [block.vectors for block in blocks] == [part.size for part in held]
    assert all(part.size for part in held)


@given(geometries, block_sizes, st.booleans())
def test_a_block_is_a_box(geometry, block_values, whole_items):
    """Whole outer items, or a part of one; so that it can be read in runs."""
    for block in geometry.blocks(block_values, whole_items=whole_items):
        if whole_items or block.outer.stop - block.outer.start > 1:
            assert block.inner == slice(0, geometry.inner)


@given(geometries, block_sizes)
def test_blocks_are_about_as_large_as_asked_for(geometry, block_values):
    """No block is larger than two, or than the eight vectors that fill a byte of every channel."""
    vector_values = geometry.channels
    blocks = list(geometry.blocks(block_values))
    assert all(block.vectors * vector_values <= max(2 * block_values, 8 * vector_values) for block in blocks)
    sizes = [block.vectors * vector_values for block in blocks if block.inner.stop == geometry.inner][:-1]
    if geometry.inner == 1:  # and where vectors can be cut anywhere, none but the last is a scrap
        assert all(2 * size >= min(block_values, vector_values) for size in sizes)


@given(geometries, block_sizes)
def test_one_block_where_everything_fits(geometry, more):
    size = geometry.outer * geometry.channels * geometry.inner
    blocks = list(geometry.blocks(size + more))
    assert len(blocks) == (1 if geometry.vectors else 0) or geometry.channels == 0


@given(shapes, st.data(), block_sizes, st.booleans())
def test_blocks_walk_the_vectors_in_the_order_of_the_index(shape, data, block_values, whole_items):
    """The road of the pipeline: cut [outer, channels, inner] as given, and get the vectors in the index's order."""
    x = np.arange(np.prod(shape)).reshape(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    geometry = layout.geometry_of(shape, axis)
    cube = x.reshape(geometry.outer, geometry.channels, geometry.inner)
    parts = [
        cube[block.outer, :, block.inner].transpose(0, 2, 1).reshape(block.vectors, geometry.channels)
        for block in geometry.blocks(block_values, whole_items=whole_items)
    ]
    walked = np.concatenate([np.empty((0, geometry.channels), int), *parts])
    assert np.array_equal(walked, np.moveaxis(x, axis, -1).reshape(-1, shape[axis]) if walked.size else walked)


@given(shapes, wanted)
def test_the_axis_is_the_twins(shape, channel_first):
    axis = layout.usual_axis(len(shape), channel_first)
    assert axis == twin.channel_axis(shape, channel_first)
    positions = layout.positions_shape(shape, axis)
    assert positions == twin.index_shape(shape, twin.Config(shape[axis], (shape[axis],), channel_first=channel_first))
    assert layout.geometry_of(shape, axis).channels == shape[axis]
    assert layout.geometry_of(shape, axis).vectors == np.prod(positions, dtype=int)


@given(shapes, st.data())
def test_insert_channels_undoes_positions_shape(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    assert layout.insert_channels(layout.positions_shape(shape, axis), shape[axis], axis) == shape


@pytest.mark.parametrize(
    ("ndim", "channel_first", "expected"),
    [(1, None, 0), (1, True, 0), (2, True, 1), (3, None, 2), (3, True, 1), (4, None, 1), (4, False, 3), (5, None, 1)],
)
def test_usual_axis(ndim, channel_first, expected):
    assert layout.usual_axis(ndim, channel_first) == expected


@given(st.integers(1, 9), st.integers(-9, 9))
def test_axes_are_counted_as_numpy_counts(ndim, number):
    if -ndim <= number < ndim:
        assert layout.axis_of(ndim, number) == np.arange(ndim)[number]
    else:
        with pytest.raises(IndexError):
            layout.axis_of(ndim, number)


def test_layouts_by_name():
    assert [layout.axis_of(ndim, "channel-last") for ndim in (1, 2, 5)] == [0, 1, 4]
    assert [layout.axis_of(ndim, "channel-first") for ndim in (2, 3, 5)] == [1, 1, 1]
    with pytest.raises(IndexError):
        layout.axis_of(1, "channel-first")


def test_geometry_by_hand():
    assert layout.geometry_of((2, 18, 16, 4), 1) == Geometry(2, 18, 64)
    assert layout.geometry_of((2, 16, 4, 18), 3) == Geometry(128, 18, 1)
    assert layout.geometry_of((18, 16, 4), 0) == Geometry(1, 18, 64)
    assert layout.geometry_of((18,), 0) == Geometry(1, 18, 1)
    assert layout.geometry_of((5, 18), 1) == Geometry(5, 18, 1)
    assert layout.positions_shape((18,), 0) == ()
