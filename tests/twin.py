"""A slow second opinion on DESIGN.md sections 3 and 4: one Python loop where the package has a kernel.

Knows: which axis holds the features, x -> z -> bits -> indices and codes -> values, the three packings of a codes
file, and the safetensors container. Does not know: the package under test (it imports nothing of it), torch,
checkpoint files. Bits are lists of 0/1 ints, one list of B for each vector, in channel order.
"""

import hashlib
import json
import math
import struct
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
# dtype of packing "ints" -> (struct code, the widest index in bits that it holds without overflow)
INTS = {"U8": ("B", 8), "I16": ("h", 15), "I32": ("i", 31), "I64": ("q", 63), "U64": ("Q", 64)}


@dataclass(frozen=True)
class Config:
    """What section 3 needs of a quantizer but for its weights. codebook_dims: of one level, if there are levels.

    index_dims: the bits of each index where they are cut otherwise than by codebooks. cosine_scale: None for nn.Linear.
    """

    dim: int
    codebook_dims: tuple[int, ...]
    codebook_scale: float = 1.0
    spherical: bool = False
    channel_first: bool | None = None
    keep_num_codebooks_dim: bool | None = None
    soft_clamp_input_value: float | None = None
    bit_order: str = "msb"
    index_dims: tuple[int, ...] | None = None
    levels: int | None = None
    groups: int | None = None
    cosine_scale: float | None = None

    @property
    def bits_of_indices(self):
        """The bits of each index of one vector: levels follow each other within a group."""
        if self.levels is not None:
            return self.codebook_dims * self.levels * (self.groups or 1)
        return self.index_dims or self.codebook_dims


# Layout


def channel_axis(shape, channel_first):
    """The axis that holds the features, counted from the front. Raises ValueError for a 0-D shape."""
    if len(shape) == 0:
        raise ValueError("a 0-D tensor has no channel axis")
    if len(shape) <= 2:
        return len(shape) - 1
    if channel_first is None:
        channel_first = len(shape) >= 4
    return 1 if channel_first else len(shape) - 1


def vectors_of(x, channel_first):
    """x, any layout -> [n, dim] of x's dtype, in C order of the index shape."""
    axis = channel_axis(x.shape, channel_first)
    outer = x.shape[:axis] + x.shape[axis + 1 :]
    vectors = np.empty((math.prod(outer), x.shape[axis]), dtype=x.dtype)
    for row, position in enumerate(np.ndindex(*outer)):
        for channel in range(x.shape[axis]):
            vectors[row, channel] = x[(*position[:axis], channel, *position[axis:])]
    return vectors


def tensor_of(vectors, shape, channel_first):
    """The inverse of vectors_of: vectors [n, features] -> a tensor of that shape, but for its number of features."""
    axis = channel_axis(shape, channel_first)
    outer = shape[:axis] + shape[axis + 1 :]
    x = np.empty((*shape[:axis], vectors.shape[1], *shape[axis + 1 :]), dtype=vectors.dtype)
    for row, position in enumerate(np.ndindex(*outer)):
        for channel in range(vectors.shape[1]):
            x[(*position[:axis], channel, *position[axis:])] = vectors[row, channel]
    return x


def index_shape(shape, config):
    """The shape of the index tensor of an input of this shape, as a tuple."""
    axis = channel_axis(shape, config.channel_first)
    outer = tuple(shape[:axis]) + tuple(shape[axis + 1 :])
    indices = len(config.bits_of_indices)
    if indices > 1 or config.keep_num_codebooks_dim or config.levels is not None:
        return (*outer, indices)
    return outer


# Numbers


def project(x, weight, bias):
    """x [n, in], weight [out, in], bias [out] or None -> float32 [n, out].

    Computed in float64 and rounded once, so a float32 matrix product may differ from it in the last bits: a z
    this close to 0 may get another bit from the package.
    """
    projected = np.empty((len(x), len(weight)), dtype=np.float32)
    for i, vector in enumerate(x):
        for o, row in enumerate(weight):
            terms = [float(a) * float(w) for a, w in zip(vector, row, strict=True)]
            if bias is not None:
                terms.append(float(bias[o]))
            projected[i, o] = np.float32(sum(terms))
    return projected


def codebooks_of(vector, codebook_dims):
    """One vector of B -> list of its codebooks' pieces. Raises ValueError unless B is the sum of the dims."""
    if len(vector) != sum(codebook_dims):
        raise ValueError(f"a vector of {len(vector)} for codebooks of {codebook_dims}")
    pieces, start = [], 0
    for d in codebook_dims:
        pieces.append(vector[start : start + d])
        start += d
    return pieces


def l2norm(values):
    """float32 scalars -> list of float32: each divided by max(norm, 1e-12), squares summed left to right.

    A sum that overflows makes every finite value 0 and every inf NaN; one NaN makes every value NaN.
    """
    total = np.float32(0)
    for value in values:
        total = total + value * value
    norm = np.maximum(np.sqrt(total), np.float32(1e-12))  # not max(): np.maximum keeps a NaN
    return [value / norm for value in values]


def project_cosine(x, weight, scale):
    """x [n, in], weight [in, out] -> float32 [n, out]: scale times the cosine to each column; in float64 as project."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    projected = np.empty((len(x), weight.shape[1]), dtype=np.float32)
    for i, vector in enumerate(x):
        for o, column in enumerate(weight.T):
            dot = sum(a * w for a, w in zip(vector, column, strict=True))
            projected[i, o] = np.float32(dot / math.hypot(*vector) / math.hypot(*column) * scale)
    return projected


def rotate(values, rotation):
    """D float32 scalars @ rotation [D, D] -> list of float32; in float64 as project."""
    columns = rotation.T
    return [np.float32(sum(float(v) * float(r) for v, r in zip(values, column, strict=True))) for column in columns]


def values_of(z, config, rotation=None):
    """z float32 [n, B], after project_in -> list of n lists of B float32 whose signs are the bits: steps 2 to 5."""
    if z.dtype != np.float32:
        raise ValueError(f"z is {z.dtype}, not float32")
    rows = []
    with np.errstate(all="ignore"):
        for row in z:
            values = list(row)
            if config.soft_clamp_input_value is not None:
                v = np.float32(config.soft_clamp_input_value)
                values = [np.tanh(value / v) * v for value in values]
            signs = []
            for piece in codebooks_of(values, config.codebook_dims):
                rotated = piece if rotation is None else rotate(piece, rotation)
                if config.spherical:
                    rotated = [value * np.float32(config.codebook_scale) for value in l2norm(rotated)]
                signs.extend(rotated)
            assert all(type(value) is np.float32 for value in signs)
            rows.append(signs)
    return rows


def positive(rows):
    """Lists of float32 -> lists of bits: step 6."""
    return [[1 if value > 0 else 0 for value in row] for row in rows]  # NaN > 0 is False: bit 0


def bits_of(z, config):
    """z float32 [n, B], after project_in -> list of n lists of B bits: section 3, steps 2, 3, 5 and 6."""
    return positive(values_of(z, config))


def indices_of(bits, config):
    """bits -> list of one tuple of Python ints for each vector, one for each index."""
    indices = []
    for row in bits:
        pieces = codebooks_of(row, config.bits_of_indices)
        indices.append(tuple(index_of(piece, config.bit_order) for piece in pieces))
    return indices


def index_of(bits, bit_order):
    """D bits in channel order -> int."""
    total = 0
    for j, bit in enumerate(bits):
        total += bit * 2 ** place_of(j, len(bits), bit_order)
    return total


def bits_of_index(index, d, bit_order):
    """int in [0, 2^d) -> d bits in channel order. Raises ValueError for any other int."""
    if not 0 <= index < 2**d:
        raise ValueError(f"index {index} is not in [0, 2^{d})")
    return [index // 2 ** place_of(j, d, bit_order) % 2 for j in range(d)]


def place_of(j, d, bit_order):
    """The power of two that channel j of d stands for."""
    if bit_order == "msb":
        return d - 1 - j
    if bit_order == "lsb":
        return j
    raise ValueError(f"bit_order {bit_order!r}")


def codes_of(bits, config, rotation=None):
    """bits -> float32 [n, B]: section 3, step 8, without project_out and layout.

    Exact for spherical scales whose squares add up exactly (1, 0.5, 3, ...). With another scale (0.1) the sum
    depends on the order of the additions: torch's was up to 8 ulp away at D <= 64, 60 random scales.
    """
    s = np.float32(config.codebook_scale)
    codes = np.empty((len(bits), sum(config.codebook_dims)), dtype=np.float32)
    for i, row in enumerate(bits):
        code = []
        for piece in codebooks_of(row, config.codebook_dims):
            values = [s if bit else -s for bit in piece]
            if config.spherical:
                values = [value * s for value in l2norm(values)]
            code.extend(values if rotation is None else rotate(values, rotation.T))
        codes[i] = code
    return codes


# Weights, levels and groups. weights: numpy, by their names in the reference's state dict


def latents_of(x, config, weights):
    """x float32 [n, dim] -> list of n lists of float32 whose signs are the bits, in the order of the indices."""
    rows = [[] for _ in x]
    for part, own in zip(groups_of(x, config), weights_of_groups(weights, config), strict=True):
        rest = part
        if "project_in.weight" in own and config.cosine_scale is not None:
            rest = project_cosine(part, own["project_in.weight"], config.cosine_scale)
        elif "project_in.weight" in own:
            rest = project(part, own["project_in.weight"], own.get("project_in.bias"))
        for alone, rotation in levels_of(config, own):
            values = values_of(rest, alone, rotation)
            for row, found in zip(rows, values, strict=True):
                row.extend(found)
            rest = rest - codes_of(positive(values), alone, rotation)  # what is left to the next level
    return rows


def decoded(bits, config, weights, project_out=True):
    """bits, in the order of the indices -> float32 [n, dim], or the codes alone."""
    parts = []
    for group, own in enumerate(weights_of_groups(weights, config)):
        width = sum(config.codebook_dims) * (config.levels or 1)
        left = [row[group * width : (group + 1) * width] for row in bits]
        total = None
        for alone, rotation in levels_of(config, own):
            level_bits = sum(alone.codebook_dims)
            codes = codes_of([row[:level_bits] for row in left], alone, rotation)
            left = [row[level_bits:] for row in left]
            total = codes if total is None else total + codes
        if project_out and "project_out.weight" in own:
            total = project(total, own["project_out.weight"], own.get("project_out.bias"))
        parts.append(total)
    return np.concatenate(parts, axis=1)


def groups_of(x, config):
    """x [n, dim] -> its groups' features, a list of [n, dim / G]."""
    width = x.shape[1] // (config.groups or 1)
    return [x[:, first : first + width] for first in range(0, x.shape[1], width)]


def weights_of_groups(weights, config):
    """The weights of each group, without its prefix."""
    if config.groups is None:
        return [weights]
    groups = [f"rvqs.{g}." for g in range(config.groups)]
    return [{name[len(g) :]: weight for name, weight in weights.items() if name.startswith(g)} for g in groups]


def levels_of(config, own):
    """(config, rotation or None) of each level of a group; one level, which is the config's, where it has none."""
    if config.levels is None:
        return [(config, own.get("orthogonal_rot"))]
    levels = []
    for q in range(config.levels):
        half = 2.0**-q
        clamp = None if config.soft_clamp_input_value is None else config.soft_clamp_input_value * half
        alone = replace(config, codebook_scale=half, soft_clamp_input_value=clamp)
        levels.append((alone, own.get(f"layers.{q}.orthogonal_rot")))
    return levels


# Packings


def stream_of(bits):
    """bits -> bytes, packing "bits": vectors follow each other without a gap, the last byte's tail is 0."""
    flat = [bit for row in bits for bit in row]
    data = bytearray(math.ceil(len(flat) / 8))
    for k, bit in enumerate(flat):
        data[k // 8] += bit * 2 ** (7 - k % 8)
    return bytes(data)


def rows_of(bits):
    """bits -> bytes, packing "rows": each vector starts at a byte."""
    return b"".join(stream_of([row]) for row in bits)


def bits_from_stream(data, vectors, B):  # noqa: N803
    """bytes of packing "bits" -> bits. Raises ValueError for another length or a tail that is not 0."""
    if len(data) != math.ceil(vectors * B / 8):
        raise ValueError(f"{len(data)} bytes for {vectors} vectors of {B} bits")
    flat = [data[k // 8] // 2 ** (7 - k % 8) % 2 for k in range(len(data) * 8)]
    if any(flat[vectors * B :]):
        raise ValueError("the tail is not zero")
    return [flat[i * B : (i + 1) * B] for i in range(vectors)]


def bits_from_rows(data, vectors, B):  # noqa: N803
    """bytes of packing "rows" -> bits. Raises ValueError for another length or a row's tail that is not 0."""
    row_bytes = math.ceil(B / 8)
    if len(data) != vectors * row_bytes:
        raise ValueError(f"{len(data)} bytes for {vectors} rows of {row_bytes}")
    rows = [data[i * row_bytes : (i + 1) * row_bytes] for i in range(vectors)]
    return [bits_from_stream(row, 1, B)[0] for row in rows]


# Files


def need(condition, message):
    """Raises ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


def is_count(value):
    """Whether a JSON value is an integer >= 0; true, 1.0 and "1" are not."""
    return type(value) is int and value >= 0


def is_shape(value):
    return isinstance(value, list) and all(is_count(size) for size in value)


def read_safetensors(path):
    """(metadata dict of str, {name: (dtype str, shape list, bytes)}).

    Raises ValueError when the tensors are not exactly the bytes after the header, without a gap or overlap.
    """
    content = Path(path).read_bytes()
    need(len(content) >= 8, "no header length")
    (header_bytes,) = struct.unpack("<Q", content[:8])
    need(header_bytes <= len(content) - 8, "the header is longer than the file")
    header = json.loads(content[8 : 8 + header_bytes].decode("utf-8"))  # both errors are ValueErrors
    need(isinstance(header, dict), "the header is not an object")
    body = content[8 + header_bytes :]
    metadata = header.pop("__metadata__", {})
    need(isinstance(metadata, dict), "__metadata__ is not an object")
    need(all(isinstance(value, str) for value in metadata.values()), "__metadata__: not all strings")
    tensors, spans = {}, []
    for name, info in header.items():
        need(isinstance(info, dict), f"{name}: not an object")
        need(set(info) == {"dtype", "shape", "data_offsets"}, f"{name}: keys {sorted(info)}")
        dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
        need(isinstance(dtype, str) and dtype in ITEM_BYTES, f"{name}: dtype {dtype!r}")
        need(is_shape(shape), f"{name}: shape {shape!r}")
        need(is_shape(offsets) and len(offsets) == 2, f"{name}: data_offsets {offsets!r}")
        start, end = offsets
        need(end - start == math.prod(shape) * ITEM_BYTES[dtype], f"{name}: bytes do not fit the shape")
        spans.append((start, end))
        tensors[name] = (dtype, shape, body[start:end])
    position = 0
    for start, end in sorted(spans):
        need(start == position, "a gap or an overlap between tensors")
        position = end
    need(position == len(body), "the tensors do not end where the file ends")
    return metadata, tensors


def read_codes_file(path):
    """{tensor name: (header entry dict, bits)} of a codes file, version 1 or 2. Raises ValueError for another."""
    metadata, tensors = read_safetensors(path)
    need("lfq" in metadata, "no lfq metadata")
    header = json.loads(metadata["lfq"])
    need(isinstance(header, dict), "lfq metadata is not an object")
    need(header.get("format") == "lfq-codes", f"format {header.get('format')!r}")
    version = header.get("version")
    need(type(version) is int and version in (1, 2), f"version {version!r}")
    entries = header.get("tensors")
    need(isinstance(entries, dict), "no tensors object")
    columns = header.get("columns", {})
    need(
        sorted([*entries, *columns]) == sorted(tensors),
        f"header names {sorted([*entries, *columns])}, file holds {sorted(tensors)}",
    )
    for name, column in columns.items():
        dtype, stored_shape, data = tensors[name]
        need((column["dtype"], column["shape"]) == (dtype, stored_shape), f"{name}: another shape")
        need(column["sha256"] == hashlib.sha256(data).hexdigest(), f"{name}: sha256")
    result = {}
    for name, (dtype, stored_shape, data) in tensors.items():
        if name in columns:
            continue
        entry = entries[name]
        need(isinstance(entry, dict), f"{name}: not an object")
        need(entry.get("sha256") == hashlib.sha256(data).hexdigest(), f"{name}: sha256")
        result[name] = (entry, bits_of_tensor(entry, dtype, stored_shape, data))
    return result


def bits_of_tensor(entry, dtype, stored_shape, data):
    """One stored tensor -> bits. Raises ValueError when the entry does not describe it."""
    shape, dims, bit_order = entry.get("shape"), entry.get("codebook_dims"), entry.get("bit_order")
    need(is_shape(shape), f"shape {shape!r}")
    need(is_shape(dims) and dims and all(1 <= d <= 64 for d in dims), f"codebook_dims {dims!r}")
    need(bit_order in ("msb", "lsb"), f"bit_order {bit_order!r}")
    need(len(dims) == 1 or shape[-1:] == [len(dims)], f"shape {shape} does not end in {len(dims)} codebooks")
    outer = shape if len(dims) == 1 else shape[:-1]
    # One codebook, last axis 1: a kept codebooks axis or an axis of the input, the entry does not say which.
    outers = [shape, shape[:-1]] if len(dims) == 1 and shape[-1:] == [1] else [outer]
    source = entry.get("source")
    if source is not None:
        need(isinstance(source, dict) and isinstance(source.get("shape"), list), f"source {source!r}")
        need(is_shape([size for size in source["shape"] if size is not None]), f"source {source!r}")
        axis = source.get("channel_axis")  # version 2; version 1 has a layout instead
        if axis is None:
            layout = source.get("layout")
            need(layout in ("channel-first", "channel-last"), f"layout {layout!r}")
            axis = channel_axis(source["shape"], layout == "channel-first")
        positions = source["shape"][:axis] + source["shape"][axis + 1 :]
        if "sample_offsets" in entry:
            need(positions[0] is None and 1 in map(len, outers), f"shape {shape} of ragged {source}")
        else:
            positions = [entry["samples"], *positions] if "samples" in entry else positions
            need(positions in outers, f"shape {shape} of {source}")
    vectors, vector_bits = math.prod(outer), sum(dims)
    row_bytes = math.ceil(vector_bits / 8)
    if entry.get("packing") == "bits":
        need(dtype == "U8", f"packing bits in {dtype}")
        need(stored_shape == [math.ceil(vectors * vector_bits / 8)], f"stored shape {stored_shape}")
        return bits_from_stream(data, vectors, vector_bits)
    if entry.get("packing") == "rows":
        need(dtype == "U8", f"packing rows in {dtype}")
        need(stored_shape in [[*o, row_bytes] for o in outers], f"stored shape {stored_shape}")
        return bits_from_rows(data, vectors, vector_bits)
    need(entry.get("packing") == "ints", f"packing {entry.get('packing')!r}")
    need(dtype in INTS and INTS[dtype][1] >= max(dims), f"indices of {max(dims)} bits in {dtype}")
    need(stored_shape == shape, f"stored shape {stored_shape}, index shape {shape}")
    integers = struct.unpack(f"<{vectors * len(dims)}{INTS[dtype][0]}", data)
    bits = []
    for i in range(vectors):
        row = []
        for c, d in enumerate(dims):
            row.extend(bits_of_index(integers[i * len(dims) + c], d, bit_order))
        bits.append(row)
    return bits


# Statistics


def counts_of(indices):
    """Counter of what is given: ints of one codebook, or the tuples of `indices_of`, each as one symbol."""
    return Counter(indices)


def entropy_bits(counter):
    """-sum(p * log2(p)) in bits; 0.0 when nothing was counted."""
    total = sum(counter.values())
    return math.fsum(n / total * math.log2(total / n) for n in counter.values() if n > 0)


def perplexity(counter):
    """2 ** entropy_bits: the number of equally used indices with the same entropy."""
    return 2.0 ** entropy_bits(counter)
