"""Redis keys: one function per key, with its type, TTL and single writer.

- `{model}` is a hash tag: all keys of one model share a slot, so that one batch's writes are one transaction.
- What is kept of a user or an item begins with an 8-byte little-endian event-time version (epoch ms), then the body.
"""

from online_models.contracts.ids import ModelName, ModelVersion, RolloutId


def user_vector(model: ModelName, version: ModelVersion, user_id: str) -> str:
    """String: 8-byte version + 2 k float32, the recent and the long vector of a user. No TTL (dropped with the version).
    Writer: the flow."""
    return f"m:{{{model}}}:v:{version}:u:{user_id}"


def moved_items(model: ModelName, version: ModelVersion) -> str:
    """Hash item id -> 8-byte time of the last event on the log that moved it + float64 weight + k float32, of items that the
    stream has moved since the training, or that are newer. Writer: the flow."""
    return f"m:{{{model}}}:v:{version}:items"


def item_vectors(model: ModelName, version: ModelVersion) -> str:
    """String: the vectors of `moved_items` as of the last publication, for readers (`learner.encode_item_vectors`). Writer: the
    flow."""
    return f"m:{{{model}}}:v:{version}:item_vectors"


def blend(model: ModelName, version: ModelVersion) -> str:
    """String: what the blend has learned (`blend.Blend.encode`). Writer: the flow."""
    return f"m:{{{model}}}:v:{version}:blend"


def sources(model: ModelName) -> str:
    """String: the sources that all versions share, as of the last publication (`sources.Sources.encode`). Writer: the flow."""
    return f"m:{{{model}}}:sources"


def sources_log(model: ModelName) -> str:
    """Hash number of a batch -> what the sources have learned from it (`sources.encode_steps`), since the last publication.
    Writer: the flow."""
    return f"m:{{{model}}}:sources:log"


def publication(model: ModelName) -> str:
    """String: decimal number of the last batch in the published sources and item vectors; readers fetch those when it changes.
    Writer: the flow."""
    return f"m:{{{model}}}:publication"


def history(model: ModelName, user_id: str) -> str:
    """String: a `UserHistory` (newest events and all seen items of a user). No TTL. Writer: the flow."""
    return f"m:{{{model}}}:history:{user_id}"


def preferences(model: ModelName, user_id: str) -> str:
    """String: JSON `Preferences`, what a user has said to like. TTL 365 days, renewed by each PUT. Writer: the API."""
    return f"m:{{{model}}}:preferences:{user_id}"


def precomputed_list(model: ModelName, version: ModelVersion, user_id: str) -> str:
    """String: JSON `PrecomputedList`, a user's best items by a version. TTL `serving.precomputed_seconds`, and dropped with the
    version. Writer: `serving_api precompute`."""
    return f"m:{{{model}}}:v:{version}:top:{user_id}"


def language_scores(model: ModelName, version: ModelVersion, user_id: str) -> str:
    """String: `language_scores.encode_scores`, what the language model of a version says of a user's candidates. TTL
    `worker.language_scores_seconds`. Writer: the worker that trained the version."""
    return f"m:{{{model}}}:llm:{version}:u:{user_id}"


def segment_scores(model: ModelName, version: ModelVersion) -> str:
    """String: `language_scores.SegmentScores`, what it says of new items to segments of users. TTL
    `worker.language_scores_seconds`. Writer: the worker that trained the version."""
    return f"m:{{{model}}}:llm:{version}:segments"


def complete_scores(model: ModelName, version: ModelVersion) -> str:
    """String: `Manifest.space` of the recommender beside which all scores of a language model are written; its TTL is theirs.
    TTL `worker.language_scores_seconds`. Writer: the worker that has written them."""
    return f"m:{{{model}}}:llm:{version}:complete"


def scoring(model: ModelName, version: ModelVersion) -> str:
    """String: name of the worker that scores again for a language model. TTL twice `worker.job_timeout_seconds`. Writer: it."""
    return f"m:{{{model}}}:llm:{version}:scoring"


def session(model: ModelName, request_id: str) -> str:
    """String: JSON `sessions.Session`, the frozen list that the pages of one request are cut from. TTL
    `serving.session_seconds`. Writer: the worker of the API that answered the first page, once."""
    return f"m:{{{model}}}:session:{request_id}"


def popularity(model: ModelName) -> str:
    """Hash item id -> two float64 (decayed count, epoch ms it is decayed to). Writer: the flow."""
    return f"m:{{{model}}}:popularity"


def popular_items(model: ModelName) -> str:
    """String: JSON list of the most popular item ids, best first. Writer: the flow."""
    return f"m:{{{model}}}:popular"


def applied_position(model: ModelName, run_id: str, source: str) -> str:
    """String: decimal position up to which a run's source is applied to this model's keys. TTL 7 days. Writer: the flow."""
    return f"m:{{{model}}}:applied:{run_id}:{source}"


def route(model: ModelName) -> str:
    """Hash {epoch, document}: JSON `Route`, never replaced by one of a smaller epoch (Lua). Writers: controller, operators."""
    return f"m:{{{model}}}:route"


def reader_status(model: ModelName, version: ModelVersion, reader_id: str) -> str:
    """String: JSON `ReaderStatus`. TTL 15 s, renewed on every poll. Writer: that reader."""
    return f"m:{{{model}}}:ready:{version}:{reader_id}"


def readers(model: ModelName) -> str:
    """Sorted set reader id -> epoch seconds of its last sign of life, of the readers that serve the model. Writer: each reader
    its own member; members silent for a day are dropped by any."""
    return f"m:{{{model}}}:readers"


def served(model: ModelName, rollout_id: RolloutId) -> str:
    """Hash {reader}|{stage}|{variant} -> JSON `Served`, sums since that reader began; a bandit's arms each under `served_arm`.
    TTL 30 days. Writer: each reader its own fields."""
    return f"m:{{{model}}}:served:{rollout_id}"
