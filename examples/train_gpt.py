"""A small transformer learns the tokens of handwritten digits, and draws new ones: examples/train_gpt.py [--steps 1000]

The 40 bits of an image are read as ten tokens of 4 bits, a vocabulary of 10 × 16 instead of 2^40. Takes a minute on two
cores, and writes digits.png with ten new images of each digit.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import zlib
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import nn

import lfq_cli
from lfq_cli.data import CodesBatches, CodesDataset

DATA = Path(__file__).parent.parent / "sample_data"
TOKENS, VALUES, DIGITS = 10, 16, 10


class GPT(nn.Module):
    """Token k of VALUES values has embeddings and logits of its own; the digit comes first."""

    def __init__(self, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        self.digit = nn.Embedding(DIGITS, width)
        self.token = nn.Embedding(TOKENS * VALUES, width)
        self.place = nn.Parameter(torch.zeros(TOKENS, width))
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.heads = nn.Linear(width, TOKENS * VALUES)

    def forward(self, digits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """digits [b], tokens [b, t] with t < TOKENS -> logits of tokens 0 to t: [b, t + 1, VALUES]."""
        steps = tokens.shape[1] + 1
        known = self.token(tokens + VALUES * torch.arange(steps - 1))
        x = torch.cat([self.digit(digits)[:, None], known], dim=1) + self.place[:steps]
        mask = nn.Transformer.generate_square_subsequent_mask(steps)
        logits = self.heads(self.blocks(x, mask=mask, is_causal=True)).unflatten(-1, (TOKENS, VALUES))
        return logits[:, torch.arange(steps), torch.arange(steps)]


def train(model: GPT, batches: CodesBatches, steps: int) -> list[float]:
    """The losses, in nats a token."""
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    losses: list[float] = []
    for batch in islice(chain.from_iterable(repeat(batches)), steps):  # every epoch in another order
        tokens, digits = torch.as_tensor(batch["images"]), torch.as_tensor(batch["labels"])
        loss = nn.functional.cross_entropy(model(digits, tokens[:, :-1]).flatten(0, 1), tokens.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 100 == 0 or len(losses) == steps:
            print(f"step {len(losses)}: {sum(losses[-50:]) / len(losses[-50:]):.3f} nats a token", flush=True)
    return losses


@torch.no_grad()
def draw(model: GPT, each: int) -> torch.Tensor:
    """New tokens for `each` images of every digit: [DIGITS * each, TOKENS]."""
    model.eval()
    digits = torch.arange(DIGITS).repeat_interleave(each)
    tokens = torch.empty(len(digits), 0, dtype=torch.int64)
    for _ in range(TOKENS):
        chances = model(digits, tokens)[:, -1].div(0.8).softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(chances, 1)], dim=1)
    return tokens


def write_png(path: Path, grey: torch.Tensor) -> None:
    """grey [height, width], 0 to 1."""
    rows = b"".join(b"\0" + bytes(row) for row in grey.mul(255).round().to(torch.uint8).tolist())
    chunks = [b"IHDR" + struct.pack(">II5B", *grey.shape[::-1], 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(rows), b"IEND"]
    body = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of training (default 1000)")
    parser.add_argument("--out", type=Path, default=Path("gpt_output"), help="where tokens and pictures go")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    checkpoint, tokens = DATA / "digits_lfq.safetensors", arguments.out / "tokens"
    encode = [
        "encode",
        checkpoint,
        DATA / "digits.safetensors",
        "-o",
        tokens,
        "--stacked",
        "--samples-per-file",
        "1000",
    ]
    take = ["--tensor", "images", "--channel-axis", "0", "--carry", "labels", "-q"]
    subprocess.run([sys.executable, "-m", "lfq_cli", *map(str, encode), *take], check=True)

    dataset = CodesDataset(tokens, dims=(4,) * TOKENS, keys=False)
    model = GPT()
    train(model, CodesBatches(dataset, 128, seed=0), arguments.steps)

    halves = draw(model, 10).unflatten(1, (5, 2))
    images = lfq_cli.load(checkpoint).indices_to_codes(halves[..., 0] * 16 + halves[..., 1])
    grey = images.clamp(-1, 1).add(1).div(2).reshape(DIGITS, 10, 8, 8).permute(0, 2, 1, 3).reshape(80, 80)
    write_png(arguments.out / "digits.png", grey.repeat_interleave(4, 0).repeat_interleave(4, 1))
    print(f"{arguments.out / 'digits.png'}: ten new images of each digit")


if __name__ == "__main__":
    main()
