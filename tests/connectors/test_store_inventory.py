"""What lies in a store, when it was used, and what may go; no file but the store's own is ever deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.score_store import Address, ScoreStore
from tamis.connectors.store_inventory import (
    DAY,
    AddressSummary,
    delete,
    take_inventory,
    unused,
)
from tamis.connectors.store_use import StoreUse, note_use, read_use, use_of_manifest, use_url

NOW = time.time()
FINGERPRINT = "0123456789abcdef"


def shard(number: int) -> str:
    return f"{number:032x}"


def put(root: Path, path: str, days: float) -> Path:
    """Write a file of ten bytes that was written so many days ago."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"0123456789")
    os.utime(file, (NOW - days * DAY, NOW - days * DAY))
    return file


def note(root: Path, recipe: str, use: StoreUse, days: float) -> Path:
    path = Path(use_url(str(root), recipe, "sources"))
    note_use(str(path), use)
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return path


def pruned(root: Path, days: float, *keep: StoreUse) -> set[str]:
    """Prune; returns the paths that are gone, and checks that they are those that were told."""
    before = paths(root)
    inventory = take_inventory(str(root))
    deleted = delete(inventory, unused(inventory, NOW - days * DAY, keep))
    gone = before - paths(root)
    assert gone == {f"{file.folder}/{file.name}" for file in deleted}
    return gone


def paths(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def test_addresses_with_shards_bytes_and_last_use(tmp_path: Path) -> None:
    put(tmp_path, f"document-{FINGERPRINT}/{shard(1)}.parquet", days=40)
    put(tmp_path, f"document-{FINGERPRINT}/{shard(2)}.parquet", days=20)
    put(tmp_path, f"dsir-statistic-{FINGERPRINT}/{shard(1)}.npz", days=40)
    note(tmp_path, "a", StoreUse([f"dsir-statistic-{FINGERPRINT}"], [shard(1)]), days=3)
    document, statistic = take_inventory(str(tmp_path)).summaries()
    assert (document.name, document.fingerprint, document.shards, document.bytes) == ("document", FINGERPRINT, 2, 20)
    assert document.used == pytest.approx(NOW - 20 * DAY, abs=1)
    assert statistic.folder == f"dsir-statistic-{FINGERPRINT}"
    assert statistic.used == pytest.approx(NOW - 3 * DAY, abs=1)


def test_a_shard_stays_as_long_as_a_run_noted_it(tmp_path: Path) -> None:
    folder = f"document-{FINGERPRINT}"
    for number in range(4):
        put(tmp_path, f"{folder}/{shard(number)}.parquet", days=90)
    old = note(tmp_path, "old", StoreUse([folder], [shard(0), shard(1)]), days=40)
    note(tmp_path, "new", StoreUse([folder, "dsir-0000000000000000"], [shard(1), shard(2), shard(9)]), days=10)
    gone = pruned(tmp_path, 30)
    # 0 was used too long ago and 3 never; 1 was used by both
    assert gone == {f"{folder}/{shard(0)}.parquet", f"{folder}/{shard(3)}.parquet", f"uses/{old.name}"}
    assert pruned(tmp_path, 30) == set()


@settings(max_examples=50, deadline=None)
@given(
    written=st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 5)), st.integers(0, 60), min_size=1),
    notes=st.lists(st.tuples(st.sets(st.integers(0, 2)), st.sets(st.integers(0, 5)), st.integers(0, 60)), max_size=4),
    kept=st.tuples(st.sets(st.integers(0, 2)), st.sets(st.integers(0, 5))),
)
def test_what_goes_is_what_nothing_needs(
    tmp_path_factory: pytest.TempPathFactory,
    written: dict[tuple[int, int], int],
    notes: list[tuple[set[int], set[int], int]],
    kept: tuple[set[int], set[int]],
) -> None:
    root = tmp_path_factory.mktemp("store")
    for (address, number), days in written.items():
        put(root, f"s-{address:016x}/{shard(number)}.parquet", days + 0.5)
    uses = [
        (StoreUse([f"s-{a:016x}" for a in sorted(addresses)], list(map(shard, sorted(shards)))), days + 0.5)
        for addresses, shards, days in notes
    ]
    for number, (use, days) in enumerate(uses):
        note(root, str(number), use, days)
    keep = StoreUse([f"s-{a:016x}" for a in kept[0]], list(map(shard, kept[1])))
    expected = {
        f"s-{address:016x}/{shard(number)}.parquet"
        for (address, number), days in written.items()
        if min([days, *(d for addresses, shards, d in notes if address in addresses and number in shards)]) >= 30
        and not (address in kept[0] and number in kept[1])
    }
    assert {path for path in pruned(root, 30, keep) if not path.startswith("uses/")} == expected


def test_only_files_of_the_store_go_and_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    treasure = [put(outside, f"{shard(number)}.parquet", days=90) for number in range(2)]
    root = tmp_path / "store"
    folder = f"document-{FINGERPRINT}"
    put(root, f"{folder}/{shard(5)}.parquet", days=90)
    left = [
        put(root, "README.md", days=90),
        put(root, f"{folder}/notes.txt", days=90),
        put(root, f"{folder}/{shard(6)}.parquet.bak", days=90),
        put(root, f"{folder}/{shard(6)[:-1]}.parquet", days=90),
        put(root, f"{folder}/.{shard(6)}.parquet.swp", days=90),
        put(root, f"{folder}/deeper/{shard(6)}.parquet", days=90),
        put(root, f"other/{shard(6)}.parquet", days=90),
        put(root, "uses/me.json", days=90),
    ]
    (root / folder / f"{shard(7)}.parquet").symlink_to(treasure[0])
    (root / f"linked-{FINGERPRINT}").symlink_to(outside)
    assert pruned(root, 30) == {f"{folder}/{shard(5)}.parquet"}
    assert all(path.exists() for path in [*treasure, *left])
    # three in the root, of which one is a link; four files, a folder and a link at the address; a note
    assert take_inventory(str(root)).others == 10


def test_unfinished_files_go_after_a_day(tmp_path: Path) -> None:
    folder = f"dsir-{FINGERPRINT}"
    put(tmp_path, f"{folder}/{shard(0)}.parquet", days=0)
    put(tmp_path, f"{folder}/.{shard(1)}.parquet.tmp-12-139", days=0.9)
    old = [f"{folder}/.{shard(2)}.npz.tmp-12-139", f"uses/.{shard(3)}.json.tmp-12-139"]
    for path in old:
        put(tmp_path, path, days=1.1)
    assert len(take_inventory(str(tmp_path)).temporary) == 3
    assert pruned(tmp_path, 30) == set(old)


def test_unreadable_documents_stay_with_their_document_columns(tmp_path: Path) -> None:
    # they are written a moment before them, and a boundary may fall in between
    document, dead = (f"{name}-{FINGERPRINT}" for name in ("document", "dead"))
    for number, days in enumerate([29.9, 31]):
        put(tmp_path, f"{dead}/{shard(number)}.parquet", days=days + 0.2)
        put(tmp_path, f"{document}/{shard(number)}.parquet", days=days)
    put(tmp_path, f"{dead}/{shard(8)}.parquet", days=31)  # of a killed process
    inventory = take_inventory(str(tmp_path))
    units = unused(inventory, NOW - 30 * DAY)
    assert [[file.folder for file in unit] for unit in units if len(unit) > 1] == [[document, dead]]
    assert pruned(tmp_path, 30) == {f"{folder}/{shard(1)}.parquet" for folder in (document, dead)} | {
        f"{dead}/{shard(8)}.parquet"
    }


def test_what_a_run_writes_meanwhile_stays(tmp_path: Path) -> None:
    path = put(tmp_path, f"dsir-{FINGERPRINT}/{shard(0)}.parquet", days=90)
    gone = put(tmp_path, f"dsir-{FINGERPRINT}/{shard(1)}.parquet", days=90)
    inventory = take_inventory(str(tmp_path))
    path.write_bytes(b"scored anew")
    gone.unlink()  # another one prunes too
    delete(inventory, unused(inventory, NOW - 30 * DAY))
    assert path.read_bytes() == b"scored anew"


def test_emptied_folders_go_and_a_pruned_store_is_a_store(tmp_path: Path) -> None:
    put(tmp_path, f"dsir-{FINGERPRINT}/{shard(0)}.parquet", days=90)
    assert len(pruned(tmp_path, 30)) == 1
    assert list(tmp_path.iterdir()) == []
    assert take_inventory(str(tmp_path)).summaries() == []


@pytest.mark.parametrize("content", [f"{shard(0)}.parquet", f"data/{shard(0)}.parquet", ".hidden"])
def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, content: str) -> None:
    put(tmp_path, content, days=90)
    with pytest.raises(RecipeError, match="is not a score store"):
        take_inventory(str(tmp_path))
    with pytest.raises(RecipeError, match="there is no store"):
        take_inventory(str(tmp_path / "missing"))
    with pytest.raises(RecipeError, match="is a file"):
        take_inventory(str(tmp_path / content))


def test_a_damaged_note_stops_pruning(tmp_path: Path) -> None:
    path = note(tmp_path, "a", StoreUse([], []), days=1)
    for content in ("{", "[]", '{"addresses": ["a"]}', '{"addresses": [1], "shards": []}'):
        path.write_text(content)
        with pytest.raises(TamisError, match=path.name):
            take_inventory(str(tmp_path))


def test_the_same_run_renews_its_note(tmp_path: Path) -> None:
    urls = {use_url(str(tmp_path), recipe, sources) for recipe in "ab" for sources in "ab"}
    assert len(urls) == 4
    use = StoreUse(["dsir-0"], ["1", "2"])
    note_use(min(urls), StoreUse([], []))
    note_use(min(urls), use)
    assert read_use(min(urls)) == use
    assert use_of_manifest({"store_addresses": use.addresses, "store_shards": use.shards}, "run") == use
    with pytest.raises(TamisError, match="older Tamis"):
        use_of_manifest({}, "run")


def test_an_object_store(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    root = f"memory://{tmp_path.name}-store"
    folder = Address("dsir", FINGERPRINT).folder
    for number in range(3):
        memory.pipe(f"{root}/{folder}/{shard(number)}.parquet", b"0123456789")
    memory.pipe(f"{root}/{folder}/mine.txt", b"")
    note_use(use_url(root, "a", "b"), StoreUse([folder], [shard(2)]))
    inventory = take_inventory(root)
    (summary,) = inventory.summaries()
    assert isinstance(summary, AddressSummary) and (summary.shards, summary.bytes) == (3, 30)
    assert inventory.others == 1
    assert unused(inventory, NOW - DAY) == []
    units = unused(inventory, time.time() + DAY, [read_use(use_url(root, "a", "b"))])
    memory.pipe(f"{root}/{folder}/{shard(0)}.parquet", b"scored anew")
    assert [file.shard for file in delete(inventory, units) if file.folder == folder] == [shard(1)]
    assert ScoreStore(root).stored(Address("dsir", FINGERPRINT)) == {shard(0), shard(2)}
    with pytest.raises(RecipeError, match="there is no store"):
        take_inventory(f"{root}-missing")
