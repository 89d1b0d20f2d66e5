"""LoRA beside full fine-tuning of a language-model scorer: quality after a drift, CPU seconds of a cycle, peak tensor bytes.

- Quality on a tiny base of 2M weights, pretrained here on a generated catalogue (`topic_texts`) before the drift; nothing of it
  says how larger models learn. Each seed is another cycle: other choices to learn from, others to judge on.
- The yardstick is full fine-tuning with AdamW, two epochs, on the same choices. Differences are paired by choice, over all seeds;
  intervals hold 95 % for the models that were trained here, not for the recipe: each seed's own difference stands beside them.
  AUC of the taken item against five others, in the new regime and in the old one.
- `placed words` begin with vectors of the words that the base was never shown, from what they stand with. Full fine-tuning gains
  by them too, as by smaller batches: so each way is also compared with its like, full fine-tuning with the same vectors, epochs,
  batches and choices. The yardstick of the targets is the plain recipe, as it is commonly done.
- Full fine-tuning and adapters are run by the same code: the last layer at the answers alone, no logits of a whole vocabulary.
- Time and memory also at 15M and 135M, of drawn weights (`lora_costs`): a cycle is the frozen part once and two epochs of steps.
- Peak bytes are of tensors in memory. What is kept of the frozen layers lies in a file; `with it` counts that whole file too.
- The recipes are all those that were tried to save 65 % of the time and 62 % of the memory at a loss of at most 1.2 %.
- One thread, CPU time; on a GPU the time of the clock, in bfloat16.
"""

import argparse
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from msgspec.structs import replace

from benchmarks.lora_costs import EPOCHS, Cost, cost_of, costs_of
from benchmarks.lora_ways import ALL_16, FULL, RECIPES, WAYS, Way, like_of
from benchmarks.random_llamas import SHAPES
from benchmarks.report import Machine, Target, result, table
from benchmarks.topic_texts import TopicWorld, group_auc, topic_world
from retrain_workers.attempt import Unwatched
from retrain_workers.lora.adapters import AdapterShape, merged
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.choices import ChoiceGroups
from retrain_workers.lora.cooccurrence import PlacedWords, placed_words
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.fitting import fit
from retrain_workers.lora.packing import PackedRow, Packer
from retrain_workers.lora.scoring import packed_scores
from retrain_workers.lora.tiny_base import MEDIUM, Pretraining, pretrain
from retrain_workers.lora.training import Plan, Trained, batches_of, train

F64 = npt.NDArray[np.float64]

SEEDS: Final = 3
BASE_RATE: Final = 2e-3
FULL_RATE: Final = 1e-3
Z95: Final = 1.96

WITHIN: Final = -1.2
TIME, MEMORY, LARGE_TIME = -65.0, -62.0, -75.0


@dataclass(slots=True)
class Found:
    """seconds : of each seed; new, old : AUC of each choice, by seed; cost : of a step"""

    cost: Cost
    seconds: list[float] = field(default_factory=list)
    new: list[F64] = field(default_factory=list)
    old: list[F64] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Choices that the base is made of, that a cycle learns from, and that it is judged on in the new and in the old regime."""

    base: int
    cycle: int
    new: int
    old: int


WHOLE: Final = Sizes(4_000, 800, 1_000, 400)
QUICK: Final = Sizes(3_000, 500, 600, 300)


def main(arguments: Sequence[str]) -> int:
    """Measure and print, each figure as it comes."""
    options = parser().parse_args(arguments)
    machine, figures, targets = Machine.here(), dict[str, float](), list[Target]()
    if options.device == "cpu":
        torch.set_num_threads(1)
    world = topic_world(options.seed)
    for size in options.sizes.split(","):
        if size == "2M" and options.device == "cpu":
            found = quality(world, QUICK if options.quick else WHOLE, options)
            print(f"\n{quality_table(found)}\n\n{seed_table(found)}\n", flush=True)
            figures |= quality_figures(found)
            targets += quality_targets(found)
        costs = step_costs(size, world, options)
        print(f"\n{cost_table(size, costs)}\n", flush=True)
        figures |= cost_figures(size, costs)
        targets += cost_targets(size, costs)
    print(result("lora", machine, figures, targets))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks lora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks lora --sizes 2M --quick",
    )
    found.add_argument("--sizes", default="2M,15M,135M", metavar="LIST", help=f"of {', '.join(SHAPES)}")
    found.add_argument("--seed", type=int, default=0, metavar="S", help="of the world, the base and the first cycle")
    found.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="cycles to judge by (default 3)")
    found.add_argument("--steps", type=int, default=3, metavar="N", help="steps to take the median of (default 3)")
    found.add_argument("--quick", action="store_true", help="fewer choices, and no recipes beside the usual ways")
    found.add_argument("--ways", choices=("usual", "recipes", "all"), default="all", help="what to measure at 2M")
    found.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda; on cuda only time and memory")
    return found


def quality(world: TopicWorld, sizes: Sizes, options: argparse.Namespace) -> dict[str, Found]:
    """Every way on every seed."""
    base = base_of(world, sizes, options.seed)
    usual, tried = options.ways != "recipes", options.ways != "usual" and not options.quick
    ways = {FULL: WAYS[FULL], **(WAYS if usual else {}), **(RECIPES if tried else {})}
    packer = Packer(base.prompt, world.texts)
    found: dict[str, Found] = {"no update": Found(Cost(0.0, 0.0, 0.0, 0, 0))}
    found |= {name: Found(cost_of_way(base, packer, world, way, sizes.cycle)) for name, way in ways.items()}
    for seed in range(options.seed + 1, options.seed + 1 + options.seeds):
        groups = world.choices(sizes.cycle, 10 * seed, drifted=True)
        judged = [
            (packer.rows(each.histories(), each.candidates))
            for each in (
                world.choices(sizes.new, 10 * seed + 1, drifted=True),
                world.choices(sizes.old, 10 * seed + 2, drifted=False),
            )
        ]
        for name, each in found.items():
            seconds, decoder = learned(base, world.texts, groups, ways.get(name), seed)
            record(each, seconds, decoder, judged)
            means = f"AUC {each.new[-1].mean():.4f} new, {each.old[-1].mean():.4f} old"
            print(f"seed {seed}  {name:62} {seconds:6.1f} s  {means}", flush=True)
    return found


def base_of(world: TopicWorld, sizes: Sizes, seed: int) -> BaseModel:
    """The base before the drift; it has the words of items to come, and has never been shown them."""
    past = world.choices(sizes.base, 10 * seed, drifted=False)
    files = pretrain(world.texts, past, Pretraining(MEDIUM, 1, BASE_RATE, 16, seed), Unwatched())
    base = BaseModel.of_files(files)
    print(f"base: {base.parameters:,} weights, pretrained on {sizes.base:,} choices", flush=True)
    return base


def cost_of_way(base: BaseModel, packer: Packer, world: TopicWorld, way: Way, choices: int) -> Cost:
    groups = world.choices(way.groups_per_batch, 7, drifted=True)
    (batch,) = batches_of(packer, groups, way.groups_per_batch, 0, base.decoder.device)
    return cost_of(base, way.shape, batch, 1, way.kept(choices))


def learned(
    base: BaseModel, texts: list[str], groups: ChoiceGroups, way: Way | None, seed: int
) -> tuple[float, Decoder]:
    """CPU seconds of a cycle, and the decoder after it."""
    if way is None:
        return 0.0, base.decoder
    groups = groups.take(np.arange(round((1 - way.share) * len(groups)), len(groups)))
    if way.recipe is not None:
        adapter = fit(base, texts, groups, replace(way.recipe, seed=seed), Unwatched())
        return adapter.cpu_seconds, merged(base, adapter)
    model = copy.deepcopy(base.decoder.model).requires_grad_(True)
    model.train(True)
    decoder = Decoder(model, base.decoder.yes, base.decoder.no)
    if way.words:
        place(decoder, placed_words(base, texts, groups))
    batches = batches_of(Packer(base.prompt, texts), groups, way.groups_per_batch, seed, decoder.device)
    weights = [Trained(dict(model.named_parameters()), FULL_RATE)]
    spent = train(decoder, weights, batches, Plan(way.epochs, seed), Unwatched())
    model.train(False)
    return spent.cpu_seconds, decoder


def place(decoder: Decoder, words: PlacedWords) -> None:
    decoder.embeddings.weight.data[torch.from_numpy(words.tokens)] = torch.from_numpy(words.vectors)


def record(found: Found, seconds: float, decoder: Decoder, judged: Sequence[Sequence[PackedRow]]) -> None:
    new, old = (group_auc(np.array(packed_scores(decoder, rows))) for rows in judged)
    found.seconds.append(seconds)
    found.new.append(new)
    found.old.append(old)


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one way over all seeds; shares are changes from full fine-tuning, in percent; half : of the interval of `difference`

    all_memory : with the file of what is kept; by_seed : the difference of each seed
    """

    seconds: float
    time: float
    memory: float
    all_memory: float
    difference: float
    half: float
    old_difference: float
    by_seed: tuple[float, ...]


def summary(found: Found, full: Found) -> Summary:
    """
    difference = 100 · mean(AUC - AUC_full) / mean(AUC_full), ± 1.96 s / sqrt(n) of the paired differences
    """
    paired, level = np.concatenate(found.new) - np.concatenate(full.new), np.concatenate(full.new).mean()
    old = np.concatenate(found.old) - np.concatenate(full.old)
    by_seed = [ours.mean() / theirs.mean() - 1 for ours, theirs in zip(found.new, full.new, strict=True)]
    seconds, full_seconds = float(np.mean(found.seconds)), float(np.mean(full.seconds))
    return Summary(
        seconds,
        100 * (seconds / full_seconds - 1),
        100 * (found.cost.peak_bytes / full.cost.peak_bytes - 1),
        100 * (found.cost.all_bytes / full.cost.all_bytes - 1),
        100 * float(paired.mean() / level),
        100 * Z95 * float(paired.std() / np.sqrt(len(paired)) / level),
        100 * float(old.mean() / np.concatenate(full.old).mean()),
        tuple(100 * float(each) for each in by_seed),
    )


def quality_table(found: Mapping[str, Found]) -> str:
    """All ways beside full fine-tuning."""
    costs = ("trainable", "CPU s", "time", "peak MB", "memory", "file MB", "with it")
    rows = [["2M", *costs, "new AUC", "difference", "to its like", "old AUC", "difference"]]
    for name, each in found.items():
        of, like = summary(each, found[FULL]), summary_to_its_like(name, found)
        rows.append(
            [
                name,
                f"{each.cost.share:.2%}",
                f"{of.seconds:.1f}",
                f"{of.time:+.0f} %",
                f"{each.cost.peak_bytes / 1e6:.0f}",
                f"{of.memory:+.0f} %",
                f"{each.cost.kept_bytes / 1e6:.0f}",
                f"{of.all_memory:+.0f} %",
                f"{np.concatenate(each.new).mean():.4f}",
                f"{of.difference:+.2f} ± {of.half:.2f} %",
                "" if like is None else f"{like.difference:+.2f} ± {like.half:.2f} %",
                f"{np.concatenate(each.old).mean():.4f}",
                f"{of.old_difference:+.2f} %",
            ]
        )
    return table(rows)


def summary_to_its_like(name: str, found: Mapping[str, Found]) -> Summary | None:
    """Of a way beside full fine-tuning that is like it; None where that is not measured."""
    like = like_of(name)
    return None if like is None or like not in found else summary(found[name], found[like])


def seed_table(found: Mapping[str, Found]) -> str:
    """The difference of each seed, in percent of plain full fine-tuning, and in brackets of what is like the way."""
    seeds = range(len(found[FULL].new))
    rows = [["new AUC, difference by seed", *(f"cycle {seed + 1}" for seed in seeds)]]
    for name, each in found.items():
        of, like = summary(each, found[FULL]).by_seed, summary_to_its_like(name, found)
        rows.append([name, *(f"{of[seed]:+.2f}" + (f" ({like.by_seed[seed]:+.2f})" if like else "") for seed in seeds)])
    return table(rows)


def quality_figures(found: Mapping[str, Found]) -> dict[str, float]:
    """What is published of each way."""
    figures: dict[str, float] = {}
    for name, each in found.items():
        of = summary(each, found[FULL])
        figures |= {
            f"2M: {name}: trainable %": round(100 * each.cost.share, 3),
            f"2M: {name}: CPU seconds": round(of.seconds, 1),
            f"2M: {name}: peak bytes": each.cost.peak_bytes,
            f"2M: {name}: bytes in the file": each.cost.kept_bytes,
            f"2M: {name}: new AUC": round(float(np.concatenate(each.new).mean()), 4),
            f"2M: {name}: new AUC difference %": round(of.difference, 2),
            f"2M: {name}: half of its 95 % interval": round(of.half, 2),
            f"2M: {name}: old AUC difference %": round(of.old_difference, 2),
        }
        figures |= {f"2M: {name}: new AUC difference % of cycle {n}": round(d, 2) for n, d in enumerate(of.by_seed, 1)}
        if (like := summary_to_its_like(name, found)) is not None:
            figures[f"2M: {name}: new AUC difference % to its like"] = round(like.difference, 2)
            figures[f"2M: {name}: half of that interval"] = round(like.half, 2)
    return figures


def quality_targets(found: Mapping[str, Found]) -> list[Target]:
    """Adapters in all layers keep the quality; and whether any recipe meets all three at once."""
    full = found[FULL]
    targets = []
    if ALL_16 in found:
        difference = round(summary(found[ALL_16], full).difference, 2)
        targets.append(Target(f"2M: {ALL_16}: difference %", difference, at_least=WITHIN))
    tried = {name: summary(each, full) for name, each in found.items() if not name.startswith(("full", "no update"))}
    joint = [of for of in tried.values() if of.time <= TIME and of.all_memory <= MEMORY and of.difference >= WITHIN]
    return [*targets, Target("2M: recipes that meet time, memory and quality at once", len(joint), at_least=1)]


def step_costs(size: str, world: TopicWorld, options: argparse.Namespace) -> dict[str, Cost]:
    """Full fine-tuning, adapters in all layers, and in the top quarter over a cached prefix."""
    layers = SHAPES[size].size.layers
    top = AdapterShape(first_layer=layers - max(layers // 4, 1))
    shapes = {FULL: None, ALL_16: AdapterShape(), f"top_layers r16, top {layers - top.first_layer}": top}
    groups = world.choices(1_000, options.seed, drifted=True)
    return dict(costs_of(size, shapes, world.texts, groups, options.device, options.steps))


def cost_table(size: str, costs: Mapping[str, Cost]) -> str:
    """Time and memory beside full fine-tuning."""
    full = costs[FULL]
    rows = [
        [
            size,
            "trainable",
            "step s",
            "once s",
            f"cycle s, {EPOCHS} epochs",
            "time",
            "peak MB",
            "memory",
            "file MB",
            "with it",
        ]
    ]
    for name, each in costs.items():
        cells = [each.step, each.once, each.cycle(EPOCHS)]
        rows.append(
            [
                name,
                f"{each.share:.2%}",
                *(f"{cell:.3f}" for cell in cells),
                f"{change(each.cycle(EPOCHS), full.cycle(EPOCHS)):+.0f} %",
                f"{each.peak_bytes / 1e6:.0f}",
                f"{change(each.peak_bytes, full.peak_bytes):+.0f} %",
                f"{each.kept_bytes / 1e6:.0f}",
                f"{change(each.all_bytes, full.all_bytes):+.0f} %",
            ]
        )
    return table(rows)


def change(value: float, full: float) -> float:
    """From full fine-tuning, in percent."""
    return 100 * (value / full - 1)


def cost_figures(size: str, costs: Mapping[str, Cost]) -> dict[str, float]:
    """What is published of each way at a size."""
    return {
        f"{size}: step: {name}: {what}": value
        for name, each in costs.items()
        for what, value in {
            "trainable %": round(100 * each.share, 3),
            "seconds": round(each.step, 4),
            "seconds once": round(each.once, 4),
            "peak bytes": each.peak_bytes,
            "bytes in the file": each.kept_bytes,
            "peak bytes and file": each.all_bytes,
        }.items()
    }


def cost_targets(size: str, costs: Mapping[str, Cost]) -> list[Target]:
    """Those of the sizes that have any."""
    full, everywhere, top = costs.values()
    time = round(change(top.cycle(EPOCHS), full.cycle(EPOCHS)), 1)
    memory = round(change(top.peak_bytes, full.peak_bytes), 1)
    all_memory = round(change(top.all_bytes, full.all_bytes), 1)
    match size:
        case "15M":
            return [
                Target("15M: top_layers: time %", time, at_most=TIME),
                Target("15M: top_layers: memory %", memory, at_most=TIME),
                Target("15M: top_layers: memory %, the file counted", all_memory, at_most=TIME),
            ]
        case "135M":
            of_all = round(change(everywhere.peak_bytes, full.peak_bytes), 1)
            return [
                Target("135M: all_layers: memory %", of_all, at_most=MEMORY),
                Target("135M: top_layers: time %", time, at_most=LARGE_TIME),
            ]
        case _:
            return []
