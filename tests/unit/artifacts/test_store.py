"""What every store does, whatever holds its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from crucible.artifacts import ArtifactRef, CacheEntry, Store, open_store
from crucible.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactNotFound,
    StoreUnavailable,
    UserError,
)

FINGERPRINT = "sha256:" + "12" * 32
OTHER = "sha256:" + "34" * 32


def blob_key(data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def manifest_key(digest: str) -> str:
    sha256 = digest.removeprefix("sha256:")
    return f"manifests/sha256/{sha256[:2]}/{sha256}"


def test_layout_is_as_documented(store: Store, place, put) -> None:
    ref = put(store, {"a": b"one", "b/c": b"two"})
    store.cache_put(FINGERPRINT, CacheEntry({"model": ref.digest}, "r1"))
    store.lease("r1", [ref.digest])
    assert place.peek(blob_key(b"one")) == b"one"
    assert place.peek(blob_key(b"two")) == b"two"
    assert place.peek(manifest_key(ref.digest)) == ref.manifest.to_json()
    assert place.keys("cache/") == [f"cache/{'12' * 32}"]
    assert len(place.keys("runs/r1/")) == 1


def test_commit_returns_what_was_given(store: Store, put) -> None:
    ref = put(
        store,
        {"b": b"2", "a/x": b"1"},
        type="Model",
        variant="causal-lm",
        metadata={"loss": 0.5},
        producer={"component": "train", "version": "1", "fingerprint": FINGERPRINT},
        parents=[OTHER],
    )
    manifest = store.manifest(ref.digest)
    assert manifest == ref.manifest
    assert [(f.path, f.size_bytes) for f in manifest.files] == [("a/x", 1), ("b", 1)]
    assert (manifest.type, manifest.variant, manifest.parents) == ("Model", "causal-lm", (OTHER,))
    assert manifest.metadata == {"loss": 0.5}
    assert ref.store == store.uri


def test_equal_work_gives_equal_digests_in_every_store(store: Store, put, tmp_path: Path) -> None:
    files = {"z": b"1", "a": b"2"}
    elsewhere = open_store((tmp_path / "elsewhere").as_uri())
    first = put(store, files)
    again = put(store, dict(reversed(files.items())))
    assert first.digest == again.digest == put(elsewhere, files).digest


def test_equal_bytes_are_stored_once(store: Store, place, put) -> None:
    put(store, {"a": b"same", "b": b"same"})
    put(store, {"c": b"same", "d": b"other"})
    assert len(place.keys("blobs/")) == 2
    assert len(place.keys("manifests/")) == 2


def test_an_imported_folder_is_copied(store: Store, read, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "records.jsonl").write_bytes(b"{}\n")
    ref = store.put_tree(folder, type="Dataset", variant="questions")
    (folder / "sub" / "records.jsonl").write_bytes(b"edited")
    assert read(store.reader(ref), "sub/records.jsonl") == b"{}\n"


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(ArtifactNotFound, match=OTHER):
        store.manifest(OTHER)
    with pytest.raises(ArtifactNotFound, match="CRUCIBLE_STORE"):
        store.reader(OTHER)


@pytest.mark.parametrize("digest", ["", "sha256:12", "12" * 32, "sha256:" + "G" * 64])
def test_a_malformed_digest_is_the_users_mistake(store: Store, digest: str) -> None:
    with pytest.raises(UserError, match="64 lower-case hex digits"):
        store.manifest(digest)


def test_a_changed_manifest_is_refused(store: Store, place, put) -> None:
    ref = put(store, {"a": b"1"})
    key = manifest_key(ref.digest)
    place.poke(key, place.peek(key).replace(b'"Model"', b'"Modem"'))
    with pytest.raises(ArtifactCorrupt, match=ref.digest) as caught:
        store.manifest(ref.digest)
    assert key in str(caught.value)


def test_a_sound_store_passes_its_check(store: Store, place) -> None:
    store.check()
    assert place.keys("probes/") == []


def test_a_place_that_cannot_be_written_fails_its_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "file")):
        open_store((tmp_path / "file" / "store").as_uri()).check()


def test_locate_names_the_place_of_the_bytes(store: Store, put) -> None:
    ref = put(store, {"a": b"1"})
    assert store.locate(ref.manifest.files[0]).endswith(blob_key(b"1"))


class TestCache:
    def test_returns_what_was_put(self, store: Store, put) -> None:
        ref = put(store, {"a": b"1"})
        entry = CacheEntry({"model": ref.digest}, "r1", {"seed": "7"})
        assert store.cache_get(FINGERPRINT) is None
        store.cache_put(FINGERPRINT, entry)
        assert store.cache_get(FINGERPRINT) == entry
        assert store.cache_get(OTHER) is None

    def test_a_later_entry_replaces_an_earlier_one(self, store: Store, put) -> None:
        ref = put(store, {"a": b"1"})
        store.cache_put(FINGERPRINT, CacheEntry({"model": ref.digest}, "r1"))
        store.cache_put(FINGERPRINT, CacheEntry({"model": ref.digest}, "r2"))
        found = store.cache_get(FINGERPRINT)
        assert found is not None
        assert found.run_id == "r2"

    @pytest.mark.parametrize("damage", ["no blob", "short blob", "no manifest", "other manifest"])
    def test_is_a_miss_when_an_output_is_not_whole(
        self, store: Store, place, put, damage: str
    ) -> None:
        ref = put(store, {"a": b"12", "b": b"3"})
        store.cache_put(FINGERPRINT, CacheEntry({"model": ref.digest}, "r1"))
        match damage:
            case "no blob":
                place.drop(blob_key(b"12"))
            case "short blob":
                place.poke(blob_key(b"12"), b"1")
            case "no manifest":
                place.drop(manifest_key(ref.digest))
            case "other manifest":
                place.poke(manifest_key(ref.digest), b"{}")
        assert store.cache_get(FINGERPRINT) is None

    @pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"junk", b"\xff"])
    def test_a_damaged_entry_is_a_miss(self, store: Store, place, put, data: bytes) -> None:
        place.poke(f"cache/{'12' * 32}", data)
        assert store.cache_get(FINGERPRINT) is None

    def test_an_altered_or_foreign_entry_is_a_miss(self, store: Store, place, put) -> None:
        ref = put(store, {"a": b"1"})
        store.cache_put(FINGERPRINT, CacheEntry({"model": ref.digest}, "r1"))
        data = place.peek(f"cache/{'12' * 32}")
        place.poke(f"cache/{'34' * 32}", data)
        place.poke(f"cache/{'12' * 32}", data.replace(b'"r1"', b'"r2"'))
        assert store.cache_get(FINGERPRINT) is None
        assert store.cache_get(OTHER) is None


class TestLeases:
    def test_are_released_by_run(self, store: Store, place, put) -> None:
        ref = put(store, {"a": b"1"})
        store.lease("r1", [ref.digest])
        store.lease("r1", [ref.digest])
        store.lease("r11", [ref.digest])
        store.release_lease("r1")
        assert [key.split("/")[1] for key in place.keys("runs/")] == ["r11"]
        store.release_lease("r1")

    def test_of_what_is_not_whole_are_refused(self, store: Store, place, put) -> None:
        ref = put(store, {"a": b"1"})
        place.drop(blob_key(b"1"))
        with pytest.raises(ArtifactNotFound, match=r"run r1"):
            store.lease("r1", [ref.digest])
        with pytest.raises(ArtifactNotFound, match=OTHER):
            store.lease("r1", [OTHER])

    @pytest.mark.parametrize("run_id", ["", "a/b", "..", "."])
    def test_need_a_plain_run_id(self, store: Store, run_id: str) -> None:
        with pytest.raises(UserError, match="run id"):
            store.lease(run_id, [])


class TestDrafts:
    def test_collect_every_file_of_the_folder(self, store: Store) -> None:
        with store.draft() as draft:
            draft.new_file("sub/announced").write_bytes(b"1")
            (draft.folder / "sub" / "other").write_bytes(b"2")
            assert not draft.is_empty
            assert draft.commit(type="Model").manifest.files[1].path == "sub/other"

    @pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../x", "", "a//b", "a\0b", "."])
    def test_refuse_paths_that_lead_out(self, store: Store, path: str) -> None:
        with store.draft() as draft, pytest.raises(UserError, match="artifact file"):
            draft.new_file(path)

    def test_without_a_file_cannot_be_committed(self, store: Store, place) -> None:
        with store.draft() as draft:
            assert draft.is_empty
            with pytest.raises(ArtifactError, match="nothing was written"):
                draft.commit(type="Model")
        assert place.keys("manifests/") == []

    def test_miss_an_announced_file(self, store: Store) -> None:
        with store.draft() as draft:
            draft.new_file("there").write_bytes(b"1")
            draft.new_file("forgotten")
            with pytest.raises(ArtifactError, match="forgotten"):
                draft.commit(type="Model")

    def test_store_nothing_when_the_manifest_is_invalid(self, store: Store, place) -> None:
        with store.draft() as draft:
            draft.new_file("a").write_bytes(b"1")
            with pytest.raises(UserError, match=r"metadata\.loss"):
                draft.commit(type="Model", metadata={"loss": float("nan")})
        assert place.keys("manifests/") == []
        assert place.keys("blobs/") == []

    def test_leave_nothing_when_abandoned(self, store: Store, place) -> None:
        with store.draft() as draft:
            draft.new_file("a").write_bytes(b"1")
            folder = draft.folder
        assert not folder.exists()
        assert place.keys("blobs/") == place.keys("staging/") == []

    def test_are_closed_after_commit(self, store: Store, put) -> None:
        draft = store.draft()
        draft.new_file("a").write_bytes(b"1")
        draft.commit(type="Model")
        for call in (lambda: draft.new_file("b"), lambda: draft.commit(type="Model")):
            with pytest.raises(ArtifactError, match="new draft"):
                call()

    def test_cannot_be_read(self, store: Store) -> None:
        with store.draft() as draft:
            draft.new_file("a").write_bytes(b"1")
            calls = (draft.paths, draft.local_dir)
            calls += (lambda: draft.open("a"), lambda: draft.local_path("a"))
            for call in calls:
                with pytest.raises(ArtifactError, match="cannot be read while it is written"):
                    call()

    def test_copy_what_has_another_name_elsewhere(self, store: Store, read, tmp_path: Path) -> None:
        mine = tmp_path / "mine"
        mine.write_bytes(b"original")
        with store.draft() as draft:
            draft.new_file("linked").symlink_to(mine)
            (draft.folder / "hard").hardlink_to(mine)
            ref = draft.commit(type="Model")
        mine.write_bytes(b"edited!!")
        reader = store.reader(ref)
        assert read(reader, "linked") == read(reader, "hard") == b"original"

    def test_refuse_a_file_that_changes_while_it_is_stored(
        self, store: Store, place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draft = store.draft()
        path = draft.new_file("a")
        path.write_bytes(b"1" * 100)
        stream = path.open("r+b")
        hash_file = store.backend.hash_file

        def hash_then_change(source: Path):
            hashed = hash_file(source)
            stream.write(b"2")
            stream.close()
            return hashed

        monkeypatch.setattr(store.backend, "hash_file", hash_then_change)
        with pytest.raises(ArtifactError, match="changed while it was being stored"):
            draft.commit(type="Model")
        assert place.keys("blobs/") == place.keys("manifests/") == []


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "unknown kind"),
        ("/plain/path", "unknown kind"),
        ("gs://bucket", "unknown kind"),
        ("file://relative/path", "absolute"),
        ("s3://", "bucket"),
        ("s3://key:secret@bucket", "credentials"),
        ("s3://bucket/x?y", r"'\?'"),
    ],
)
def test_a_bad_uri_is_the_users_mistake(uri: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_store(uri)


def test_names_that_need_escaping_in_uris(tmp_path: Path, put, read) -> None:
    store = open_store((tmp_path / "my store ä#1%20").as_uri())
    ref = put(store, {"ä b/c#d?.txt": b"1"})
    assert store.uri == (tmp_path / "my store ä#1%20").as_uri()
    assert ArtifactRef.from_json(ref.to_json()) == ref
    assert read(store.reader(ref), "ä b/c#d?.txt") == b"1"
