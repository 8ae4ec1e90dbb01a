"""Files that look like an LFQ's and are not one, or are one that only the user can finish: each with its reason.

`CASES` maps a name to (a function of a seed that gives what torch.save was given, the reason, what should happen):
`refuse` where no option can make it right, `ask` where one can, `read` where it is only a trap on the way.

Read: TencentARC/SEED-Voken b9a17ea src/IBQ; vector-quantize-pytorch 1.32.0 (FSQ, run; EvoLFQ); OpenMOSS/MOSS-TTS
f21e26d modeling_moss_audio_tokenizer.py; open-mmlab/Amphion d3de90f
models/codec/amphion_codec/quantize/lookup_free_quantize.py; haoosz/BiGR 196c734 bae/binaryae.py;
AMD-AIG-AIMA/Instella-T2I 9a1a753 bae/bnl.py; lxa9867/ImageFolder 76ddfb9
tokenizer/tokenizer_image/{lookup_free_quantize,xqgan_model}.py; markweberdev/maskbit 5ea3d73 modeling/bert.py;
lucidrains/magvit2-pytorch a00519f. The classes here are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from families import infinity, kronos, lucidrains, maskbit, open_genie, open_magvit2, residual, show_o, unstored
from families.arithmetic import State, generator, randomize
from families.wrappers import ema_pytorch, lucidrains_save, lucidrains_trainer, prefixed


class Case(NamedTuple):
    make: Callable[[int], Any]
    reason: str
    expected: str


def model(**parts: nn.Module) -> nn.ModuleDict:
    """An autoencoder of a few layers around the given parts."""
    sides = {"encoder": nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3)}), "decoder": nn.ModuleDict()}
    return nn.ModuleDict({**sides, **parts})


def ibq(seed: int) -> dict[str, Any]:
    quantize = nn.ModuleDict({"embedding": nn.Embedding(64, 16)})
    whole = model(quantize=quantize, quant_conv=nn.Conv2d(16, 16, 1), post_quant_conv=nn.Conv2d(16, 16, 1))
    return {"state_dict": randomize(whole, seed)}


def taming_vq(seed: int) -> State:
    """Codes as wide as a power of two has bits, so that only the values tell it from Show-o."""
    return randomize(model(quantize=nn.ModuleDict({"embedding": nn.Embedding(1024, 10)})), seed)


def vq_with_power_buffer(seed: int) -> State:
    """Show-o's keys around a codebook that is not ±1."""
    state = show_o.state_dict(seed, bits=5)
    state["quantize.embedding"] = torch.randn(32, 5, generator=generator(seed))
    return state


def binary_autoencoder(seed: int) -> State:
    """BiGR's BinaryQuantizer; Instella-T2I's is linear, with a bare `embed`."""
    quantize = nn.ModuleDict({"proj": nn.Sequential(nn.Conv2d(8, 24, 1), nn.Sigmoid()), "embed": nn.Embedding(24, 8)})
    return randomize(model(quantize=quantize), seed)


def instella(seed: int) -> State:
    quantizer = nn.ModuleDict({"proj": nn.Sequential(nn.Linear(8, 64))})
    return {**randomize(model(quantizer=quantizer), seed), "quantizer.embed": torch.zeros(64, 8)}


def xq_gan(seed: int) -> dict[str, State]:
    """ImageFolder's LFQ of 12 bits at ten scales, in its `quantizes`: mask and codebook are not persistent."""
    parts = {"quant_resi": nn.ModuleDict({"qresi_ls": nn.ModuleList([nn.Conv2d(12, 12, 3)])})}
    state = randomize(model(quantizes=nn.ModuleList([nn.ModuleDict(parts)]), post_quant_conv=nn.Conv2d(12, 8, 1)), seed)
    buffers = {"ema_vocab_hit_SV": torch.zeros(10, 4096), "scaler": 0.5 ** torch.arange(10)}
    return {"model": {**state, **prefixed(buffers, "quantizes.0.")}}


def fsq(seed: int) -> State:
    """vector_quantize_pytorch.FSQ([8, 5, 5, 5], dim=16): its levels are not in the file."""
    return unstored.early_lucidrains_state_dict(seed, bits=4, dim=16)


def ursa_fsq(seed: int) -> State:
    """URSA's AutoencoderVQ around FSQuantizer, whose `basis` and `levels` are not persistent."""
    return unstored.ursa_state_dict(seed, bits=6)


def fsq_with_basis(seed: int) -> State:
    """An FSQ that keeps its mixed-radix `basis`: at levels (8, 8, 8, 8) powers of two that are not bits."""
    state = randomize(model(quant_conv=nn.Conv2d(16, 4, 1)), seed)
    radix = torch.tensor([8, 8, 8, 8], dtype=torch.int32)
    return {**state, "quantizer.basis": torch.tensor([1, 8, 64, 512], dtype=torch.int32), "quantizer.levels": radix}


def moss(seed: int) -> State:
    """MossAudioTokenizerResidualLFQ: weight-normed 1x1 convolutions around a learned codebook at every level."""
    state: State = {}
    for level in range(2):
        parts = {"in_proj": nn.Conv1d(8, 4, 1), "out_proj": nn.Conv1d(4, 8, 1), "codebook": nn.Embedding(16, 4)}
        layer = randomize(nn.ModuleDict(parts), seed + level)
        for side in ("in_proj", "out_proj"):
            weight = layer.pop(f"{side}.weight")
            layer[f"{side}.parametrizations.weight.original0"] = weight.norm(dim=(1, 2), keepdim=True)
            layer[f"{side}.parametrizations.weight.original1"] = weight
        state |= prefixed(layer, f"quantizer.quantizers.{level}.")
    return state


def amphion_sigmoid(seed: int) -> State:
    """LookupFreeQuantize: in_project, sigmoid, round; LSB integers of 0 and 1; old-style weight norm."""
    layer = randomize(nn.ModuleDict({"in_project": nn.Conv1d(8, 4, 1), "out_project": nn.Conv1d(4, 8, 1)}), seed)
    for side in ("in_project", "out_project"):
        weight = layer.pop(f"{side}.weight")
        layer[f"{side}.weight_g"] = weight.norm(dim=(1, 2), keepdim=True)
        layer[f"{side}.weight_v"] = weight
    return prefixed(layer, "quantizer.quantizers.0.")


def maskbit_generator(seed: int) -> State:
    """LFQBert of 14 bits in 2 splits: bits_to_indices of 7, input_proj [hidden, 14], no codebook."""
    parts = {"class_emb": nn.Embedding(11, 8), "input_proj": nn.Linear(14, 8), "prediction_layer": nn.Linear(8, 256)}
    state = randomize(nn.ModuleDict(parts), seed)
    return {**state, "bits_to_indices": torch.pow(2.0, torch.arange(0, 7)).int(), "pos_emb": torch.zeros(1, 257, 8)}


def cast_mask(seed: int) -> State:
    """A whole state dict cast to float16: 2^16 and 2^17 are infinite, 2^0 to 2^15 survive."""
    return {name: tensor.half() for name, tensor in lucidrains.state_dict(seed, codebook_dim=18).items()}


def cast_small_mask(seed: int) -> State:
    """The same at 4 bits: nothing is lost, and the numbers are still powers of two."""
    return {name: tensor.half() for name, tensor in lucidrains.state_dict(seed, codebook_dim=4, dim=8).items()}


def square_cosine(seed: int) -> State:
    """project_in [8, 8] without a bias, and none at project_out."""
    return lucidrains.state_dict(seed, codebook_dim=8, dim=8, bias=False, cosine=True)


def square_cosine_with_bias(seed: int) -> State:
    """project_out has a bias and project_in has none, although one option sets both: only cosine does that."""
    return lucidrains.state_dict(seed, codebook_dim=8, dim=8, bias=True, cosine=True)


def two_lfqs(seed: int) -> dict[str, Any]:
    """magvit2-pytorch's trainer: the same masks, other projections."""
    online = lucidrains.state_dict(seed, dim=16, attribute="quantizers")
    return lucidrains_trainer(online, ema=lucidrains.state_dict(seed + 1, dim=16, attribute="quantizers"))


def ema_beside_online(seed: int) -> State:
    """ema_pytorch alone: stripping both prefixes would make every name stand twice."""
    online = lucidrains.state_dict(seed, dim=16, attribute="quantizers")
    return ema_pytorch(lucidrains.state_dict(seed + 1, dim=16, attribute="quantizers"), online=online)


def infinity_aliases(seed: int) -> dict[str, State]:
    return infinity.file(infinity.state_dict(seed, bits=32))


def infinity_one_name(seed: int) -> State:
    """A safetensors copy without the alias: `quantizer.lfq.mask`, as an EvoLFQ under `quantizer` writes it."""
    return {n: t for n, t in infinity.state_dict(seed, bits=32).items() if not n.startswith("quantize.")}


def infinity_layernorm(seed: int) -> dict[str, State]:
    return infinity.file(infinity.state_dict(seed, bits=16, layernorm=True))


def infinity_out_phi(seed: int) -> dict[str, State]:
    state = infinity.state_dict(seed, bits=16)
    phi = {f"{name}.lfq.out_phi.weight": torch.eye(16) for name in ("quantizer", "quantize")}
    return infinity.file({**state, **phi})


def infinity_star(seed: int) -> dict[str, State]:
    return infinity.file(infinity.star_state_dict(seed))


def infinity_star_projected(seed: int) -> dict[str, State]:
    state = infinity.star_state_dict(seed, semantic_bits=16, detail_bits=16, projected=True)
    return infinity.file(state)


def magvit2_saved(seed: int) -> dict[str, Any]:
    return lucidrains_save(lucidrains.state_dict(seed, dim=16, attribute="quantizers"))


def soundstream_saved(seed: int) -> dict[str, Any]:
    return lucidrains_save(residual.state_dict(seed, dim=8, groups=1, model="soundstream"), key="model")


def genie_with_two(seed: int) -> dict[str, Any]:
    """A Genie holds the quantizers of its tokenizer and of its actions, of different sizes."""
    tokenizer = prefixed(open_genie.state_dict(seed, bits=10), "tokenizer.")
    actions = prefixed(open_genie.state_dict(seed + 1, bits=3, dim=8), "latent_action.")
    return {"state_dict": {**tokenizer, **actions}}


def foreign_mask(seed: int) -> State:
    """An attention mask and a positional basis that happen to be powers of two or carry the name."""
    state = randomize(model(), seed)
    return {**state, "attn.mask": torch.tensor([1, 1, 0, 0]), "rope.basis": torch.tensor([1.0, 2.0, 4.0])}


def broken_mask(seed: int) -> State:
    """2^3, 2^2, 2^2, 2^0: one entry repeated."""
    return {**lucidrains.state_dict(seed), "mask": torch.tensor([8, 4, 4, 1])}


def shuffled_mask(seed: int) -> State:
    """Every power once, in neither order."""
    return {**lucidrains.state_dict(seed), "mask": torch.tensor([4, 8, 1, 2])}


def ascending_mask(seed: int) -> State:
    """LSB under a name whose families are MSB: a fork, or Open-MAGVIT2's code made persistent."""
    return {**lucidrains.state_dict(seed), "mask": 2 ** torch.arange(4)}


def residual_with_a_hole(seed: int) -> State:
    """layers.1 is missing: three levels, numbered 0, 2, 3."""
    state = residual.state_dict(seed, levels=4)
    return {name: tensor for name, tensor in state.items() if not name.startswith("layers.1.")}


def residual_of_two_widths(seed: int) -> State:
    """No ResidualLFQ has levels of different widths."""
    return {**residual.state_dict(seed, levels=2), "layers.1.mask": 2 ** torch.arange(2, -1, -1)}


def rows_that_do_not_divide(seed: int) -> State:
    """project_in has 7 rows for masks of 4 bits."""
    return {**lucidrains.state_dict(seed, dim=16), "project_in.weight": torch.zeros(7, 16)}


def wrong_codebook(seed: int) -> State:
    """MaskBit's buffers with the codebook of the other bit order."""
    state = maskbit.state_dict(seed, bits=4)
    return {**state, "quantize.codebook": state["quantize.codebook"].flip(1).contiguous()}


def kronos_predictor(seed: int) -> State:
    return kronos.predictor_state_dict(seed, s1_bits=4, s2_bits=4)


def open_magvit2_file(seed: int) -> dict[str, Any]:
    return {"state_dict": open_magvit2.state_dict(seed, ema=True)}


def empty(seed: int) -> dict[str, Tensor]:
    """LFQ(dim=10) of 1.9.0 to 1.9.4, saved by itself."""
    return unstored.early_lucidrains_state_dict(seed, dim=None)


CASES = {
    "ibq": Case(ibq, "IBQ picks the nearest of learned vectors; a sign knows nothing of them", "refuse"),
    "taming_vq": Case(taming_vq, "`quantize.embedding.weight` is a learned codebook of VQ", "refuse"),
    "vq_with_power_buffer": Case(vq_with_power_buffer, "the stored codebook is not ±1 in any bit order", "refuse"),
    "fsq": Case(fsq, "the four projections are also those of FSQ, whose levels the file does not hold", "ask"),
    "ursa_fsq": Case(ursa_fsq, "URSA's file is the same around LFQ and around FSQ", "ask"),
    "fsq_with_basis": Case(fsq_with_basis, "powers of two that skip exponents are FSQ's radices, no bits", "refuse"),
    "moss": Case(moss, "MOSS calls LFQ what picks the nearest of normalised learned vectors", "refuse"),
    "amphion_sigmoid": Case(
        amphion_sigmoid, "its bits are a rounded sigmoid: codes 0 and 1, 0.5 rounds to 0", "refuse"
    ),
    "binary_autoencoder": Case(binary_autoencoder, "its codes are 0 and 1 times learned vectors", "refuse"),
    "instella": Case(instella, "the same, in one dimension", "refuse"),
    "xq_gan": Case(xq_gan, "signs of residuals at ten scales, resized and convolved", "refuse"),
    "maskbit_generator": Case(maskbit_generator, "a generator: bits_to_indices of one split, no codebook", "refuse"),
    "cast_mask": Case(cast_mask, "float16 has no 2^16, so the mask has infinities", "refuse"),
    "cast_small_mask": Case(cast_small_mask, "the mask is not an integer tensor, the projections lost bits too", "ask"),
    "square_cosine": Case(square_cosine, "cosine or linear: a square project_in without biases does not say", "ask"),
    "square_cosine_with_bias": Case(square_cosine_with_bias, "a bias at project_out only: it is cosine", "read"),
    "two_lfqs": Case(two_lfqs, "`model` and `ema_model` have equal masks and other projections", "ask"),
    "ema_beside_online": Case(ema_beside_online, "`ema_model.` and `online_model.` in one flat mapping", "ask"),
    "infinity_aliases": Case(infinity_aliases, "one quantizer under two names: equal tensors, no question", "read"),
    "infinity_one_name": Case(infinity_one_name, "`.lfq.mask` alone: Infinity (±1/√D) or EvoLFQ (±scale)", "ask"),
    "infinity_layernorm": Case(infinity_layernorm, "a layer norm over the channels stands before the sign", "refuse"),
    "infinity_out_phi": Case(infinity_out_phi, "a linear layer stands after the codes", "refuse"),
    "infinity_star": Case(infinity_star, "two quantizers, of small and of large scales", "ask"),
    "infinity_star_projected": Case(infinity_star_projected, "two layers stand before the sign", "refuse"),
    "magvit2_saved": Case(magvit2_saved, "`config` is pickled bytes: never loaded; spherical is asked for", "read"),
    "soundstream_saved": Case(soundstream_saved, "the same, under `model`", "read"),
    "genie_with_two": Case(genie_with_two, "two quantizers of different sizes", "ask"),
    "foreign_mask": Case(foreign_mask, "a `mask` of 0 and 1 and a float `basis` are not bit weights", "refuse"),
    "broken_mask": Case(broken_mask, "a power stands twice", "refuse"),
    "shuffled_mask": Case(shuffled_mask, "every power once, but in neither order", "refuse"),
    "ascending_mask": Case(ascending_mask, "the name says MSB, the numbers say LSB", "ask"),
    "residual_with_a_hole": Case(residual_with_a_hole, "level 1 is missing; scales would shift", "refuse"),
    "residual_of_two_widths": Case(
        residual_of_two_widths, "levels of one residual quantizer are equally wide", "refuse"
    ),
    "rows_that_do_not_divide": Case(rows_that_do_not_divide, "7 rows are not a multiple of 4 bits", "refuse"),
    "wrong_codebook": Case(wrong_codebook, "the stored codebook contradicts bits_to_indices", "refuse"),
    "kronos_predictor": Case(kronos_predictor, "the language model of Kronos has no quantizer", "refuse"),
    "open_magvit2": Case(open_magvit2_file, "nothing of the quantizer is stored: family and fields are asked", "ask"),
    "empty": Case(empty, "an empty mapping", "refuse"),
}
