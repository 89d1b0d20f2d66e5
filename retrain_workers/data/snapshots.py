"""Snapshots: what a training read, as an immutable list of Parquet partitions and a catalogue with one hash of it all.

- A snapshot is taken against the newest ones before it: a partition whose number of events and checksum are still what the
  database says is used as it lies there, the others are read again. So late, deleted and rewritten events are never missed, and
  usually one partition is read. A torn or missing file is like a partition that was never read.
- Its hash is made of the content hashes of the partitions and of the catalogue, read in one view: the same events and items have
  the same one, whenever and by whom they were read. What has the same one is trained on the same input.
- One that is named by its hash can be opened again, also after the log has grown, while its files are all there.
- Written aside, fsynced, renamed, and named after their own bytes: workers that take snapshots of one model at the same time
  write the same files, or different ones.
- A snapshot is forgotten `GRACE` after a later one was taken, and its partitions with it where no other one names them.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from online_models.contracts.artifacts import DataWindow
from online_models.contracts.events import ANSWERS, ATTRIBUTION_MS, EVENT_TYPES, EventType, Item
from online_models.errors import ArtifactError, TrainingError
from online_models.interactions import EventView, Interactions
from online_models.ports import InteractionStore
from retrain_workers.data.impressions import Impressions, Looked, taken
from retrain_workers.data.partitions import (
    ASIDE,
    SCHEMA,
    SUFFIX,
    Part,
    Partition,
    PartitionWriter,
    is_whole,
    parts_of,
    read,
)

GRACE: Final = timedelta(days=1)
"""Longer than any training reads."""

_MANIFEST: Final = "snapshot-"
_CATALOGUE: Final = "catalogue-"
_DIRECTORY_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_IMPRESSION: Final = EventType.IMPRESSION.value

_NO_KINDS: Final = np.empty(0, np.int8)
_NO_TIMES: Final = np.empty(0, np.int64)
_NO_FLOATS: Final = np.empty(0, np.float64)
_NO_BOOLS: Final = np.empty(0, np.bool_)


class _Manifest(msgspec.Struct, frozen=True):
    """What a snapshot is made of, as it is kept; see `Snapshot`."""

    partitions: tuple[Partition, ...]
    catalogue_sha256: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The events of one model up to a time, impressions among them, and its catalogue, as they were at one moment.

    partitions : oldest first, in `directory`; catalogue_sha256 : of the catalogue's file there
    """

    directory: Path
    partitions: tuple[Partition, ...]
    catalogue_sha256: str

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of all events and items: of the lines `first day, days, events, content hash` of the partitions, and of
        one that names the catalogue."""
        digest = hashlib.sha256()
        for each in self.partitions:
            part = each.part
            digest.update(f"{part.first_day} {part.days} {part.events} {each.content_sha256}\n".encode())
        digest.update(f"catalogue {self.catalogue_sha256}\n".encode())
        return digest.hexdigest()

    @property
    def window(self) -> DataWindow:
        """First and last event time, the number of all events, and `sha256`; times are 0 when there are none."""
        start_ms = min((each.start_ms for each in self.partitions), default=0)
        end_ms = max((each.end_ms for each in self.partitions), default=0)
        return DataWindow(start_ms, end_ms, sum(each.part.events for each in self.partitions), self.sha256)

    def interactions(self) -> Interactions:
        """All but impressions: what `InteractionStore.interactions` gives for the same events.

        Raises
        ------
        ArtifactError
            When a partition is missing, torn or altered since the snapshot was taken.
        """
        columns = ("user_id", "item_id", "type", "ts_ms", "value", "request_id", "features")
        texts = _Texts()
        users: list[str] = []
        items: list[str] = []
        features: list[Mapping[str, object] | None] = []
        kinds, times, values, recommended = [_NO_KINDS], [_NO_TIMES], [_NO_FLOATS], [_NO_BOOLS]
        for table in self._tables(columns):
            rows = table.filter(pc.not_equal(table["type"], _IMPRESSION))
            users += texts.of(rows["user_id"])
            items += texts.of(rows["item_id"])
            features += _decoded(rows["features"])
            kinds.append(_codes(rows["type"]))
            times.append(rows["ts_ms"].to_numpy())
            values.append(_floats(rows["value"]))
            recommended.append(rows["request_id"].is_valid().to_numpy())
        return Interactions(
            user_id=users,
            item_id=items,
            type=np.concatenate(kinds),
            ts_ms=np.concatenate(times),
            value=np.concatenate(values),
            recommended=np.concatenate(recommended),
            features=features,
        )

    def impressions(self, window_ms: int = ATTRIBUTION_MS) -> Impressions:
        """What was shown, and when it was taken, see `impressions.taken`; raises as `interactions` does."""
        columns = ("user_id", "item_id", "type", "ts_ms", "request_id", "position", "propensity")
        wanted = pa.array([_IMPRESSION, *(kind.value for kind in ANSWERS)])
        tables = [SCHEMA.empty_table().select(columns), *self._tables(columns)]
        events = pa.concat_tables(table.filter(pc.is_in(table["type"], wanted)) for table in tables)
        is_shown = pc.equal(events["type"], _IMPRESSION).to_numpy()
        user, item, request = (_numbered(events[name]) for name in ("user_id", "item_id", "request_id"))
        looked = Looked(user, item, request, events["ts_ms"].to_numpy())
        shown, answers = looked.take(is_shown), looked.take(~is_shown)
        rows, texts = events.filter(pa.array(is_shown)), _Texts()
        return Impressions(
            user_id=texts.of(rows["user_id"]),
            item_id=texts.of(rows["item_id"]),
            ts_ms=shown.ts_ms,
            request_id=rows["request_id"].to_pylist(),
            position=pc.fill_null(rows["position"], -1).to_numpy(),
            propensity=_floats(rows["propensity"]),
            taken_ms=taken(shown, answers, window_ms),
        )

    def catalogue(self) -> list[Item]:
        """The catalogue, by item id; raises as `interactions` does."""
        path = _catalogue(self.directory, self.catalogue_sha256)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}") from error
        if (found := hashlib.sha256(raw).hexdigest()) != self.catalogue_sha256:
            raise ArtifactError(f"{path}: expected SHA-256 {self.catalogue_sha256}, got {found}")
        return msgspec.json.decode(raw, type=list[Item])

    def _tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        return (read(self.directory, partition, columns) for partition in self.partitions)


def take(store: InteractionStore, domain: str, root: Path, until_ms: int | None = None) -> Snapshot:
    """A snapshot of a domain's events up to an event time (inclusive) and of its catalogue, under `root`/`domain`. Idempotent.

    Raises
    ------
    TrainingError
        When the domain cannot be the name of a directory.
    StoreError, StoreUnavailable
        When the database fails.
    """
    directory = _directory(root, domain)
    directory.mkdir(parents=True, exist_ok=True)
    # Hashing files takes its time, and a transaction must not wait for it.
    known = {each.part: each for each in _listed(directory) if is_whole(directory, each)}

    def work(view: EventView) -> tuple[tuple[Partition, ...], list[Item]]:
        parts = parts_of(view.days())
        fresh = _written(view, directory, [part for part in parts if part not in known])
        return tuple(fresh[part] if part in fresh else known[part] for part in parts), view.items()

    partitions, items = store.view(domain, until_ms, work)
    # The order of a database's texts is its own.
    catalogue = msgspec.json.encode(sorted(items, key=lambda item: item.item_id))
    snapshot = Snapshot(directory, partitions, hashlib.sha256(catalogue).hexdigest())
    _put(_catalogue(directory, snapshot.catalogue_sha256), catalogue)
    _put(_manifest(directory, snapshot.sha256), msgspec.json.encode(_Manifest(partitions, snapshot.catalogue_sha256)))
    _collect(directory, _manifest(directory, snapshot.sha256))
    return snapshot


def opened(domain: str, root: Path, sha256: str) -> Snapshot | None:
    """The snapshot of a hash under `root`/`domain`, its age begun anew; None where a part of it is missing or altered.

    Raises
    ------
    TrainingError
        When the domain cannot be the name of a directory.
    """
    directory = _directory(root, domain)
    manifest = _manifest(directory, sha256)
    kept = _decoded_manifest(manifest)
    if kept is None:
        return None
    snapshot = Snapshot(directory, kept.partitions, kept.catalogue_sha256)
    try:
        os.utime(manifest)
        os.utime(_catalogue(directory, kept.catalogue_sha256))
        snapshot.catalogue()
    except (OSError, ArtifactError):
        return None
    whole = snapshot.sha256 == sha256 and all(is_whole(directory, each) for each in kept.partitions)
    return snapshot if whole else None


def _directory(root: Path, domain: str) -> Path:
    if not _DIRECTORY_NAME.fullmatch(domain):
        raise TrainingError(f"expected a domain that can name a directory, got {domain!r}")
    return root / domain


def _written(view: EventView, directory: Path, parts: Sequence[Part]) -> dict[Part, Partition]:
    days = [day for part in parts for day in range(part.first_day, part.first_day + part.days)]
    with PartitionWriter(directory, parts) as writer:
        view.copy(days, writer.receive)
        return {each.part: each for each in writer.partitions()}


def _manifest(directory: Path, sha256: str) -> Path:
    return directory / f"{_MANIFEST}{sha256}.json"


def _catalogue(directory: Path, sha256: str) -> Path:
    return directory / f"{_CATALOGUE}{sha256}.json"


def _kept(directory: Path) -> list[_Manifest]:
    """All snapshots that are kept."""
    found = [_decoded_manifest(path) for path in directory.glob(f"{_MANIFEST}*.json")]
    return [each for each in found if each is not None]


def _listed(directory: Path) -> set[Partition]:
    """The partitions of all snapshots that are kept."""
    return {partition for each in _kept(directory) for partition in each.partitions}


def _decoded_manifest(path: Path) -> _Manifest | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError):  # collected meanwhile, or torn: its partitions are read again
        return None


def _put(path: Path, raw: bytes) -> None:
    """Write a file, whole or not at all. What it names is on the disk by then."""
    aside = path.with_name(f"{ASIDE}{os.getpid()}-{os.urandom(4).hex()}")
    with aside.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _collect(directory: Path, newest: Path) -> None:
    """Remove what is older than the newest snapshot by `GRACE`: other snapshots, their parts, and unfinished files."""
    horizon = newest.stat().st_mtime - GRACE.total_seconds()
    for path in directory.glob(f"{_MANIFEST}*.json"):
        if path != newest:
            _remove_older(path, horizon)
    kept = _kept(directory)
    named = {partition.name for each in kept for partition in each.partitions}
    named |= {_catalogue(directory, each.catalogue_sha256).name for each in kept}
    for path in itertools.chain.from_iterable(map(directory.glob, (f"*{SUFFIX}", f"{_CATALOGUE}*", f"{ASIDE}*"))):
        if path.name not in named:
            _remove_older(path, horizon)


def _remove_older(path: Path, horizon: float) -> None:
    try:
        if path.stat().st_mtime < horizon:
            path.unlink()
    except FileNotFoundError:
        pass  # another worker was first


class _Texts:
    """Columns of texts as lists in which equal texts are one object: a million rows have few users and fewer items."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, column: pa.ChunkedArray) -> list[str]:
        """The texts of a column without nulls."""
        encoded = column.combine_chunks().dictionary_encode()
        texts = [self._known.setdefault(text, text) for text in encoded.dictionary.to_pylist()]
        return [texts[code] for code in encoded.indices.to_pylist()]


def _decoded(column: pa.ChunkedArray) -> list[Mapping[str, object] | None]:
    """JSON objects, each distinct text decoded once."""
    encoded = column.combine_chunks().dictionary_encode()
    known = [msgspec.json.decode(text) for text in encoded.dictionary.to_pylist()]
    return [None if code is None else known[code] for code in encoded.indices.to_pylist()]


def _codes(types: pa.ChunkedArray) -> npt.NDArray[np.int8]:
    found = pc.index_in(types, pa.array([kind.value for kind in EVENT_TYPES]))
    codes: npt.NDArray[np.int8] = found.to_numpy().astype(np.int8)
    return codes


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Numbers, NaN where null."""
    numbers: npt.NDArray[np.float64] = pc.fill_null(column, np.nan).to_numpy()
    return numbers


def _numbered(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number for each distinct text, -1 where null."""
    indices = column.combine_chunks().dictionary_encode().indices
    numbers: npt.NDArray[np.int64] = pc.fill_null(indices, -1).to_numpy().astype(np.int64)
    return numbers
