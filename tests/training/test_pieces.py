"""The parts of training: samples, moments, coordinates, batches, levels, the record they end in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli.nn.saved import module_of
from lfq_cli.training.baselines import Errors, baselines
from lfq_cli.training.batches import MemoryBatches, StreamedBatches, generator_of
from lfq_cli.training.decoder import with_best_decoder
from lfq_cli.training.holdout import Reservoir, is_held_out
from lfq_cli.training.learning import Learner
from lfq_cli.training.levels import Levels, Shape, codes_of
from lfq_cli.training.moments import MomentsCounter
from lfq_cli.training.recipe import Recipe
from lfq_cli.training.record import quantizer_of
from lfq_cli.training.shapes import candidates
from lfq_cli.training.source import Run
from lfq_cli.training.space import space_of
from lfq_cli.training.start import start
from lfq_cli.training.survey import survey
from lfq_cli.training.usage import usage_of


def mixture(count, dim=12, seed=0):
    """Vectors with structure: 5 hidden directions, noise, a mean far from 0."""
    rng = np.random.default_rng(seed)
    hidden = rng.laplace(size=(count, 5)) @ rng.standard_normal((5, dim))
    return (hidden + 0.1 * rng.standard_normal((count, dim)) + 3).astype(np.float32)


class ArraySource:
    """Vectors in memory as a source, in runs of 100."""

    def __init__(self, x):
        self.x = x
        self.dim = x.shape[1]
        self.runs = [Run(k, len(x[k : k + 100]), k) for k in range(0, len(x), 100)]

    def scan(self):
        for run in self.runs:
            yield from self.read(run)

    def read(self, run):
        yield self.x[run.first : run.first + run.vectors]

    def name(self, number):
        return f"vector {number}"


@given(st.integers(0, 10**12), st.integers(1, 300), st.integers(0, 2**32), st.integers(0, 300))
def test_what_is_held_out_does_not_depend_on_blocks(first, count, seed, cut):
    cut = min(cut, count)
    whole = is_held_out(first, count, seed=seed, share=0.3)
    parts = [is_held_out(*part, seed=seed, share=0.3) for part in ((first, cut), (first + cut, count - cut))]
    assert np.array_equal(whole, np.concatenate(parts))


def test_the_share_held_out_is_what_was_asked_for():
    assert is_held_out(0, 100_000, seed=4, share=0.05).mean() == pytest.approx(0.05, abs=0.003)


@given(st.integers(1, 60), st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 100))
def test_a_reservoir_holds_distinct_vectors_in_any_blocks(capacity, sizes, seed):
    vectors = np.arange(sum(sizes), dtype=np.float32)[:, None]
    blocks, whole = Reservoir(capacity, 1, seed=seed), Reservoir(capacity, 1, seed=seed)
    whole.add(vectors)
    for part in np.split(vectors, np.cumsum(sizes)[:-1]):
        blocks.add(part)
    kept = blocks.vectors()[:, 0]
    assert len(kept) == len(set(kept.tolist())) == min(capacity, sum(sizes))
    assert np.array_equal(kept, whole.vectors()[:, 0])


def test_a_reservoir_is_a_uniform_sample():
    counts = np.zeros(40)
    for seed in range(2000):
        reservoir = Reservoir(10, 1, seed=seed)
        reservoir.add(np.arange(40, dtype=np.float32)[:, None])
        counts[reservoir.vectors()[:, 0].astype(int)] += 1
    expected = 2000 * 10 / 40
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_moments_in_blocks_are_those_of_all_far_from_0():
    x = (mixture(1000) + 1e4).astype(np.float32)
    counter = MomentsCounter(x.shape[1])
    for part in np.array_split(np.arange(len(x)), 7):
        counter.add(x[part], part)
    moments = counter.moments()
    np.testing.assert_allclose(moments.mean, x.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x.astype(float).T, bias=True), rtol=1e-6, atol=1e-6)


def found_of(x, **options):
    return survey(ArraySource(x), **{"bits": 4, "seed": 0, "holdout": 0.1} | options)


def test_coordinates_keep_all_but_a_thousandth_of_the_variance():
    x = mixture(2000)
    space = space_of(found_of(x).moments, generator_of(0))
    coordinates = space.coordinates(x)
    assert space.size < x.shape[1]
    share = coordinates.square().sum(1).mean().item() / space.squared_lengths(x)
    assert 0.998 < share <= 1.0001


def test_memory_batches_are_epochs():
    batches = MemoryBatches(torch.arange(10.0)[:, None], 3, seed=1)
    epoch = torch.cat([batches.batch(k) for k in range(3)])[:, 0].tolist()
    assert len(set(epoch)) == 9
    assert torch.equal(MemoryBatches(torch.arange(10.0)[:, None], 3, seed=1).batch(7), batches.batch(7))
    assert MemoryBatches(torch.arange(2.0)[:, None], 3, seed=1).batch(5).shape == (2, 1)


def streamed(x, **overrides):
    source = ArraySource(x)
    found = found_of(x)
    space = space_of(found.moments, generator_of(0))
    held = is_held_out(0, len(x), seed=0, share=0.1)
    options = {"trained": int((~held).sum()), "pool_vectors": 150, "seed": 0, "holdout": 0.1}
    return StreamedBatches(source, space, 50, device=torch.device("cpu"), **options | overrides), space, held


def test_streamed_batches_are_the_training_vectors_once_an_epoch_wherever_they_begin():
    x = mixture(1000)
    batches, space, held = streamed(x)
    pools = int((~held).sum()) // 150
    epoch = [batches.batch(k) for k in range(pools * 3)]
    rows = {tuple(row) for row in torch.cat(epoch).tolist()}
    assert len(rows) == pools * 150
    assert rows <= {tuple(row) for row in space.coordinates(x[~held]).tolist()} | _near(rows, space, x[~held])
    again, _, _ = streamed(x)
    for number in (7, 8, 2, pools * 3 + 1):
        assert torch.equal(again.batch(number), streamed(x)[0].batch(number))
        if number < len(epoch):
            assert torch.equal(again.batch(number), epoch[number])


def _near(rows, space, x):
    """Rows that differ from a coordinate by rounding only: products of other sizes sum in another order."""
    all_of = space.coordinates(x).numpy()
    return {row for row in rows if np.abs(all_of - np.array(row, np.float32)).max(1).min() < 1e-4}


def prepared(x):
    found = found_of(x)
    space = space_of(found.moments, generator_of(0))
    held_out = space.coordinates(found.held_out)
    total = space.squared_lengths(found.held_out)
    errors = Errors(held_out, total - held_out.double().square().sum(1).mean().item(), total)
    return space, space.coordinates(found.sample), errors, found.held_out


@pytest.mark.parametrize("kind", ["itq", "pca", "random"])
@pytest.mark.parametrize("shape", [Shape(1, 6), Shape(3, 2), Shape(1, 30)])
def test_every_start_explains_something(kind, shape):
    _, x, errors, _ = prepared(mixture(2000))
    levels = start(kind, x, shape, generator_of(0))
    assert levels.shape == shape
    assert errors(codes_of(levels, errors.held_out)[1]) < 0.9


def test_itq_is_better_than_signs_of_principal_directions():
    _, x, errors, _ = prepared(mixture(2000))
    found = baselines(x, 4, errors, generator_of(0))
    assert found.itq < found.pca_sign < 1


@pytest.mark.parametrize("shape", [Shape(1, 6), Shape(3, 2)])
def test_steps_leave_less(shape):
    _, x, errors, _ = prepared(mixture(4000))
    levels = start("random", x, shape, generator_of(0))
    learner = Learner(
        levels, MemoryBatches(x, 256, seed=0), Recipe(bits=6, shape=shape), variance=float(x.var(0).sum())
    )
    for number in range(200):
        learner.step(number / 200)
    before, after = (errors(codes_of(each, errors.held_out)[1]) for each in (levels, learner.levels))
    assert after < 0.95 * before


def test_the_best_decoder_is_least_squares_for_one_level_and_never_worse_for_several():
    _, x, _, _ = prepared(mixture(2000))
    for shape in (Shape(1, 6), Shape(3, 2)):
        levels = start("random", x, shape, generator_of(0))
        left = [codes_of(each, x)[1].square().sum().item() for each in (levels, with_best_decoder(levels, x))]
        assert left[1] <= left[0]
    levels = replace(start("random", x, Shape(1, 6), generator_of(0)), project_out=torch.zeros(1, x.shape[1], 6))
    codes, _ = codes_of(levels, x)
    _, rest = codes_of(with_best_decoder(levels, x), x)
    best = torch.linalg.lstsq(codes.double(), x.double()).solution
    expected = (x.double() - codes.double() @ best).square().sum().item()
    assert rest.double().square().sum().item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (Shape(1, 6), {}),
        (Shape(1, 6), {"spherical": True}),
        (Shape(1, 6), {"num_codebooks": 2, "spherical": True}),
        (Shape(3, 2), {}),
        (Shape(3, 2), {"spherical": True}),
    ],
)
def test_the_record_does_what_the_levels_do(shape, options):
    space, x, errors, held_out = prepared(mixture(2000))
    levels = start("itq", x, shape, generator_of(0))
    quantizer = quantizer_of(levels, space, Recipe(bits=6, shape=shape, **options), channel_first=None)
    module = module_of(quantizer)
    codes, rest = codes_of(levels, errors.held_out)
    bits = module.encode_bits(torch.from_numpy(held_out))
    clear = (bits == (codes > 0)).all(1)
    assert clear.float().mean() > 0.99  # but for rounding on the edge of a bit
    decoded = space.coordinates(module.decode_bits(bits).numpy())
    torch.testing.assert_close(decoded[clear], (errors.held_out - rest)[clear], rtol=1e-4, atol=1e-4)


def test_usage_counts_codes_and_dead_bits():
    bits = np.array([[k >> 2 & 1, k >> 1 & 1, k & 1, 1] for k in range(8)] * 50)
    found = usage_of(torch.from_numpy(2.0 * bits - 1), 2)
    assert found.dead_bits == 1
    assert found.perplexity == pytest.approx((4 + 2) / 2)
    assert found.utilisation == pytest.approx((1 + 0.5) / 2, rel=1e-6)


@given(st.integers(1, 200), st.integers(1, 64))
def test_candidates_have_all_bits_in_levels_that_fit(bits, coordinates):
    shapes = candidates(bits, coordinates)
    assert all(shape.total == bits for shape in shapes)
    assert len(set(shapes)) == len(shapes)
    if bits <= coordinates:
        assert Shape(1, bits) in shapes


@pytest.mark.slow
def test_levels_are_copies():
    levels = Levels(torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.zeros(1, 3, 2))
    copy = levels.copy()
    levels.threshold.add_(1)
    assert copy.threshold.sum() == 0
