"""Makes the four sample files: handwritten digits and a checkpoint of `lfq train`, latents of the digits and an LFQ
checkpoint that was trained inside the autoencoder that they come from.

Run `python sample_data/make_sample_data.py [FOLDER]`; it needs scikit-learn (the extra `sample`) and no network.
One thread and fixed seeds: one machine with one version of torch makes the same bytes every time. Another machine
makes other weights of much the same quality.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lfq_cli import LFQ

SEED = 0
SIDE = 8  # pixels; an image is a vector of 64
CODE_BITS = 8
NUM_CODEBOOKS = 5
LATENT_BITS = 10  # channels of a latent; 2 × 2 of them are 40 bits an image as well
WIDTH = 32  # channels of the autoencoder's first layers

# Weights of the module's own losses. At inv_temperature 1 the logits are 4 z: not saturated, so the entropies have a
# gradient. With 3 and a commitment of 0.25 the autoencoder fell into a single code.
ENTROPY_WEIGHT = 0.02
COMMITMENT_WEIGHT = 0.1
INV_TEMPERATURE = 1.0

Model = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A batch -> its reconstruction, and the auxiliary loss of its quantizer."""


def main() -> None:
    """Write the files to the folder given, or to this one, and print what was reached."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the order of float additions does not depend on the machine's cores
    torch.use_deterministic_algorithms(True)
    images, labels = digits()
    paths = [*make_digits(images, labels, folder), *make_latents(images, folder)]
    for path in paths:
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size:,} bytes")


def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 64] float32 in [-1, 1], row by row, and labels [1797] int64.

    The set's pixels are the integers 0 to 16, so `pixel / 8 - 1` is exact and is undone exactly.
    """
    data = load_digits()
    return torch.from_numpy(data.data).float() / 8 - 1, torch.from_numpy(data.target).long()


def make_digits(images: Tensor, labels: Tensor, folder: Path) -> list[Path]:
    """Write the images, and the checkpoint that `lfq train` makes of them."""
    inputs = write_tensors(folder / "digits.safetensors", images=images, labels=labels)
    checkpoint = folder / "digits_lfq.safetensors"
    shape = ["--codebook-size", str(2**CODE_BITS), "--num-codebooks", str(NUM_CODEBOOKS)]
    command = [sys.executable, "-m", "lfq_cli", "train", str(inputs), *shape, "-o", str(checkpoint), "--overwrite"]
    subprocess.run(command, check=True)
    return [inputs, checkpoint]


def make_latents(images: Tensor, folder: Path) -> list[Path]:
    """Train the autoencoder on the images, and write what its quantizer is given and the quantizer's checkpoint."""
    torch.manual_seed(SEED)
    pictures = images.view(-1, 1, SIDE, SIDE)
    model = Autoencoder()
    train(model, model.parameters(), pictures, steps=1500, batch=128, learning_rate=3e-3)
    model.eval()
    report("images from latents", model, pictures)
    with torch.no_grad():
        latents = model.encoder(pictures)
    return [
        write_tensors(folder / "latents.safetensors", latents=latents),
        write_checkpoint(folder / "latents_lfq.safetensors", model.quantizer),
    ]


class Autoencoder(nn.Module):
    """Images [b, 1, 8, 8] -> latents [b, 10, 2, 2] -> codes -> images. As many channels as bits: no projection."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * WIDTH, LATENT_BITS, 1),
        )
        self.quantizer = LFQ(
            dim=LATENT_BITS,
            codebook_size=2**LATENT_BITS,
            entropy_loss_weight=ENTROPY_WEIGHT,
            commitment_loss_weight=COMMITMENT_WEIGHT,
            channel_first=True,
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_BITS, 2 * WIDTH, 3, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, 1, 3, padding=1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructed images, and the auxiliary loss of the quantizer."""
        quantized, _, loss = self.quantizer(self.encoder(images), inv_temperature=INV_TEMPERATURE)
        return self.decoder(quantized), loss


def train(
    model: Model,
    parameters: Iterable[nn.Parameter],
    data: Tensor,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
) -> None:
    """Minimise the mean squared error and the auxiliary loss over random batches: Adam, cosine schedule."""
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = time.monotonic()
    for _ in range(steps):
        target = data[torch.randint(len(data), (batch,))]
        reconstruction, auxiliary_loss = model(target)
        loss = F.mse_loss(reconstruction, target) + auxiliary_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"trained {steps} steps in {time.monotonic() - start:.0f} s")


@torch.no_grad()
def report(name: str, model: Model, data: Tensor) -> None:
    """Print the fraction of the data's variance that the model does not explain: the mean vector's is 1."""
    reconstruction, _ = model(data)
    unexplained = (reconstruction - data).square().sum() / (data - data.mean(dim=0)).square().sum()
    print(f"{name}: {unexplained:.3f} of the variance unexplained")


def write_tensors(path: Path, **tensors: Tensor) -> Path:
    """Write a safetensors file with the umask's permissions, which safetensors' own `save_file` does not give it."""
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    return path


def write_checkpoint(path: Path, quantizer: LFQ) -> Path:
    """Write the quantizer as a native checkpoint."""
    quantizer.save_pretrained(path, overwrite=True)
    return path


if __name__ == "__main__":
    main()
