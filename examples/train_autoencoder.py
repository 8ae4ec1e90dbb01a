"""A small convolutional autoencoder with LFQ in the middle learns handwritten digits, and uses its codebook evenly:
examples/train_autoencoder.py [--steps 600]

Plain torch. Each image of 8 × 8 becomes 4 tokens of 10 bits. Three things keep codes from collapsing: the latents are
normalised before the quantizer, the entropy terms begin with a weight at which diversity wins and become weaker, and
the share of codes in use is watched while it trains. Takes half a minute on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lfq_cli import LFQ

DATA = Path(__file__).parent.parent / "sample_data" / "digits.safetensors"
BITS, SIDE = 10, 2
WEIGHTS = (0.3, 0.02)
"""Of the entropy terms at the start and at the end."""
INVERSE_TEMPERATURES = (0.5, 5.0)
"""Soft at the start, when every code has to be reached by a gradient; sharp at the end, when codes are what is left."""


class Autoencoder(nn.Module):
    """Images [n, 1, 8, 8] -> LFQ of 2 × 2 latents -> images."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, BITS, 1),
            nn.BatchNorm2d(BITS, affine=False),  # every bit has mean 0 and variance 1: none starts dead
        )
        self.quantizer = LFQ(dim=BITS, entropy_loss_weight=1.0, diversity_gamma=2.0, channel_first=True)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(BITS, width, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, images: Tensor, inv_temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """-> (reconstructed images, indices [n, 2, 2], entropy loss)."""
        quantized, indices, loss = self.quantizer(self.encoder(images), inv_temperature=inv_temperature)
        return self.decoder(quantized), indices, loss


def between(ends: tuple[float, float], share: float) -> float:
    """From the first to the second of `ends`, geometrically."""
    return float(ends[0] * (ends[1] / ends[0]) ** share)


@torch.no_grad()
def judge(model: Autoencoder, images: Tensor) -> tuple[float, float]:
    """(share of the images' variance that is left, share of the codes used that uniform use would reach)."""
    model.eval()
    decoded, indices, _ = model(images)
    model.train()
    left = (images - decoded).square().sum() / (images - images.mean(0)).square().sum()
    size = 2**BITS
    reachable = size * (1 - (1 - 1 / size) ** indices.numel())
    return left.item(), len(indices.unique()) / reachable


def train(model: Autoencoder, images: Tensor, steps: int, batch: int = 128) -> list[tuple[float, float]]:
    """Trains, and prints and returns what `judge` says now and then."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    variance = images.var(0, correction=0).mean()
    results = []
    for step in range(steps):
        chosen = images[torch.randint(len(images), (batch,))]
        decoded, _, entropy = model(chosen, inv_temperature=between(INVERSE_TEMPERATURES, step / steps))
        error = (decoded - chosen).square().mean() / variance
        optimizer.zero_grad()
        (error + between(WEIGHTS, step / steps) * entropy).backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 10) == 0:
            left, used = judge(model, images)
            results.append((left, used))
            print(f"step {step + 1:>5,}: {left:.3f} of the variance left, {used:.0%} of the codes used")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("autoencoder_lfq.safetensors"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = load_file(DATA)["images"].reshape(-1, 1, 8, 8)
    model = Autoencoder()
    train(model, images, arguments.steps)
    model.quantizer.save_pretrained(arguments.out, overwrite=True)
    print(f"{arguments.out}: lfq encode {arguments.out} LATENTS -o codes")


if __name__ == "__main__":
    main()
