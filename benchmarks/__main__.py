"""Runs one benchmark by its name: `python -m benchmarks NAME [options]`."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

NAMES: Final = {
    "replay": "a whole `flows replay` of a recorded log: events per second, CPU seconds, memory",
    "replay_json": "monitoring NDJSON with the whole flow: events per CPU second, beside orjson",
    "replay_wide": "monitoring a Parquet log of 100 features with the whole flow: rows per minute, memory",
    "drift_throughput": "from a batch in memory to a window's verdict, beside Scouter, Frouros, NannyML and Evidently",
    "adwin": "ADWIN over 60 features, beside river: values per second, the same detections and windows",
    "drift_accuracy": "true and false alarms of drift on seeded streams, beside the published thresholds",
    "one_outlier": "one corrupt value, ten thousand words, missing values: what must change no verdict and what must be found",
    "real_logs": "alarms on MovieLens and Online Retail in event time, and on row-shuffled copies of them",
    "seasonal": "false alarms of streams with a day, a week or a memory, and how much drift is found beside them",
    "online_als": "users and items learned per second beside implicit, and from an event to its vector in Redis: p50, p99",
    "serving": "the whole recommendation route under load, beside empty handlers; and a Redis that falls silent",
    "freshness": "from a click over HTTP to other recommendations, through the whole embedded installation: p50, p99",
    "prequential": "test-then-train on recorded logs, ours beside popularity, item-kNN, rules, EASE and ALS: hit@10, NDCG@10",
    "two_tower": "two towers beside popularity, ALS with fold-in, item-kNN and EASE; cold, warm, without logQ: hit@10, CPU",
    "serving_tower": "the torch-free user tower: parity with torch, a user's vector and the scores of all items: p50, p99",
    "canary_error_rates": "a rollout's gates, simulated: false rollbacks, users until a loss is caught, promotions at the margin",
    "gate": "the validation gate: equal candidates called better, worse ones let through, better ones let through, by users",
    "open_bandit": "off-policy estimates on the Open Bandit sample: a policy's click rate from another's log, beside its own",
    "lora": "adapters beside full fine-tuning of a language-model scorer: quality after a drift, CPU seconds, peak bytes",
    "packed_scoring": "50 candidates behind one history beside a prompt for each: equal scores, milliseconds",
    "rollback_speed": "a candidate that raises on every request, and a full promotion, under load: seconds, failed requests",
    "ranking": "mutual information of categorical features, beside scikit-learn and OutRank",
}
"""Benchmark -> what it measures. Each is a module here with `main(arguments) -> exit status`."""


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case [name, *options] if name in NAMES:
            return int(importlib.import_module(f"benchmarks.{name}").main(options))
        case ["-h" | "--help"]:
            print(usage())
            return 0
        case _:
            print(usage(), file=sys.stderr)
            return 2


def usage() -> str:
    listed = "\n".join(f"  {name:17} {what}" for name, what in NAMES.items())
    return (
        "usage: python -m benchmarks NAME [--help | options]\n\n"
        f"{listed}\n\nThe last line printed is one JSON object.\nexample: python -m benchmarks replay --runs 5"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
