"""Candidates packed behind one history, beside a prompt for each: equal scores, and how much time it saves.

- Models of drawn weights; 8 items of 4 words in the history, 50 candidates of 4 words: 41 and 6 tokens each.
- Naive is one prompt for each candidate, all in one batch, by the same code: what is saved is the history, read once.
- The scores are held against the model of transformers itself, prompt by prompt, under its own mask.
- One thread, by CPU time, in turn in one process; medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch

from benchmarks.random_llamas import SHAPES, random_llama
from benchmarks.report import Machine, Target, result, table
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.packing import Batch, PackedRow, Packer
from retrain_workers.lora.prompts import Words

HISTORY: Final = 8
WORDS: Final = 4
VOCABULARY: Final = 600

RATIO: Final = 4.0
DIFFERENCE: Final = 1e-5


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    options = parser().parse_args(arguments)
    machine, figures, targets = Machine.here(), dict[str, float](), list[Target]()
    torch.set_num_threads(1)
    rows = [["size", "packed ms", "naive ms", "ratio", "ms a candidate", "largest difference"]]
    for size in options.sizes.split(","):
        found = measured(size, options.candidates, options.runs, options.seed, options.device)
        figures |= {f"{size}: {name}": value for name, value in found.items()}
        cells = [found["packed ms"], found["naive ms"], found["ratio"], found["packed ms"] / options.candidates]
        rows.append([size, *(f"{cell:.2f}" for cell in cells), f"{found['largest difference']:.1e}"])
        targets += [
            Target(f"{size}: naive / packed", round(found["ratio"], 2), at_least=RATIO),
            Target(f"{size}: largest difference to naive prompts", found["largest difference"], at_most=DIFFERENCE),
        ]
    print(table(rows))
    print(result("packed_scoring", machine, figures, targets))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks packed_scoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks packed_scoring --sizes 2M --runs 20",
    )
    found.add_argument("--sizes", default="2M,15M", metavar="LIST", help=f"of {', '.join(SHAPES)} (default 2M,15M)")
    found.add_argument("--candidates", type=int, default=50, metavar="N", help="behind one history (default 50)")
    found.add_argument("--runs", type=int, default=9, metavar="N", help="runs to take the median of (default 9)")
    found.add_argument("--seed", type=int, default=0, metavar="S", help="seed of weights and texts (default 0)")
    found.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default cpu)")
    return found


def measured(size: str, candidates: int, runs: int, seed: int, device: str) -> dict[str, float]:
    """Times in milliseconds, their ratio, and how far packed scores are from those of naive prompts."""
    texts = drawn_texts(HISTORY + candidates, seed)
    base = random_llama(size, Words.of_texts(texts), device, seed)
    packer = Packer(base.prompt, texts)
    history, asked = np.arange(HISTORY), np.arange(HISTORY, HISTORY + candidates)
    packed = packer.row(history, asked)
    naive = [packer.row(history, asked[[place]]) for place in range(candidates)]
    packed_ms, naive_ms = milliseconds(
        [lambda: base.decoder.scores(batch(base, [packed])), lambda: base.decoder.scores(batch(base, naive))],
        runs,
        base.decoder.device,
    )
    with torch.inference_mode():
        ours = base.decoder.scores(batch(base, [packed]))[0]
        theirs = torch.stack([alone(base, row) for row in naive])
    return {
        "packed ms": packed_ms,
        "naive ms": naive_ms,
        "ratio": naive_ms / packed_ms,
        "largest difference": float((ours.float() - theirs).abs().max()),
    }


def drawn_texts(many: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in row) for row in rng.integers(VOCABULARY, size=(many, WORDS))]


def batch(base: BaseModel, rows: Sequence[PackedRow]) -> Batch:
    return Batch.of(rows, base.decoder.device)


def alone(base: BaseModel, row: PackedRow) -> torch.Tensor:
    """The score of one prompt by the model of transformers."""
    tokens = torch.from_numpy(row.tokens)[None].to(base.decoder.device)
    logits = base.decoder.model(input_ids=tokens).logits[0, -1].float()
    difference: torch.Tensor = logits[base.prompt.yes] - logits[base.prompt.no]
    return difference


def milliseconds(calls: Sequence[Callable[[], object]], runs: int, device: torch.device) -> list[float]:
    """Median time of each call, in turn; CPU time, or of the clock on a GPU."""
    cuda = device.type == "cuda"
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for _ in range(runs + 1):  # the first of each is thrown away
            for call, taken in zip(calls, times, strict=True):
                started = time.perf_counter() if cuda else time.process_time()
                call()
                if cuda:
                    torch.cuda.synchronize()
                taken.append((time.perf_counter() if cuda else time.process_time()) - started)
    return [1e3 * statistics.median(taken[1:]) for taken in times]
