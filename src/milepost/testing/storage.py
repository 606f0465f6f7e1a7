"""What every storage must do, as tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost.buffers import BLOCK
from milepost.errors import PathNotFoundError
from milepost.source import read_exactly
from milepost.storage.base import Storage


class StorageTests:
    """Subclass it, and give it a `make`."""

    def make(self, folder: Path) -> Storage:
        """A new, empty storage; `folder` is an empty folder that it may use."""
        raise NotImplementedError

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        storage = self.make(tmp_path / "storage")
        storage.prepare()
        return storage

    def read(self, storage: Storage, name: str) -> bytes:
        source = storage.open(name)
        try:
            return bytes(read_exactly(source, 0, source.size))
        finally:
            source.close()

    def test_what_is_written_can_be_read(self, storage: Storage) -> None:
        storage.write("data/a", [b"one", memoryview(b"two")], 6)
        assert self.read(storage, "data/a") == b"onetwo"
        assert storage.list("data") == ["a"]

    def test_reads_at_an_offset_up_to_the_end(self, storage: Storage) -> None:
        storage.write("data/a", [b"0123456789"], 10)
        source = storage.open("data/a")
        buffer = memoryview(bytearray(4))
        assert source.size == 10
        assert source.read_into(3, buffer) == 4
        assert bytes(buffer) == b"3456"
        assert source.read_into(8, buffer) == 2
        assert source.read_into(10, buffer) == 0
        source.close()

    def test_a_name_is_given_once(self, storage: Storage) -> None:
        storage.write("data/a", [b"first"], 5)
        with pytest.raises(FileExistsError):
            storage.write("data/a", [b"second"], 6)
        assert self.read(storage, "data/a") == b"first"

    def test_what_is_created_part_by_part_has_its_head_first(self, storage: Storage) -> None:
        sizes = [0, 3, BLOCK, 5 * BLOCK, 10]
        parts = [bytes([number]) * size for number, size in enumerate(sizes)]
        given_back = []
        with storage.create("data/a", BLOCK, BLOCK + sum(sizes)) as new:
            for part in parts:
                new.append(memoryview(part), lambda: given_back.append(True))
            assert storage.list("data") == []
            new.finish(b"h" * BLOCK)
        assert self.read(storage, "data/a") == b"h" * BLOCK + b"".join(parts)
        assert len(given_back) == len(parts)

    def test_what_is_created_and_not_finished_is_not_there(self, storage: Storage) -> None:
        with storage.create("data/a", BLOCK, 2 * BLOCK) as new:
            new.append(memoryview(b"x" * BLOCK), lambda: None)
        assert storage.list("data") == []

    def test_what_fails_while_it_is_created_is_not_there(self, storage: Storage) -> None:
        def fail() -> None:
            with storage.create("data/a", BLOCK, 2 * BLOCK) as new:
                new.append(memoryview(b"x" * BLOCK), lambda: None)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert storage.list("data") == []

    def test_replace_takes_the_place(self, storage: Storage) -> None:
        storage.replace("data/a", [b"first"], 5)
        storage.replace("data/a", [b"second"], 6)
        assert self.read(storage, "data/a") == b"second"

    def test_a_write_that_fails_leaves_nothing(self, storage: Storage) -> None:
        def parts() -> Iterator[bytes]:
            yield b"begun"
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError):
            storage.write("data/a", parts(), 10)
        with pytest.raises(RuntimeError):
            storage.replace("data/b", parts(), 10)
        assert storage.list("data") == []

    def test_what_is_not_there_is_not_found(self, storage: Storage) -> None:
        assert storage.list("nothing") == []
        assert storage.last("nothing") is None
        with pytest.raises(PathNotFoundError):
            storage.open("data/nothing")

    def test_a_stamp_tells_what_was_replaced(self, storage: Storage) -> None:
        assert dict(storage.stamps("data")) == {}
        storage.write("data/a", [b"one"], 3)
        storage.write("data/b", [b"one"], 3)
        before = dict(storage.stamps("data"))
        assert set(before) == {"a", "b"}
        assert dict(storage.stamps("data")) == before
        storage.replace("data/b", [b"two"], 3)
        after = dict(storage.stamps("data"))
        assert after["a"] == before["a"]
        assert after["b"] != before["b"]
        storage.delete(["data/b"])
        storage.write("data/b", [b"one"], 3)
        assert storage.stamps("data")["b"] not in (before["b"], after["b"])

    def test_a_change_shows(self, storage: Storage) -> None:
        storage.write("data/a", [b"one"], 3)
        before = storage.change("data")
        assert before is None or storage.change("data") == before
        time.sleep(0.02)
        storage.write("data/b", [b"one"], 3)
        after = storage.change("data")
        assert after is None or after != before

    def test_a_mark_holds_until_a_name_changes(self, storage: Storage) -> None:
        def changed() -> str | None:
            now = storage.mark("data")
            assert now == storage.marked("data")
            assert now is None or now not in marks
            marks.append(now)
            return now

        marks: list[str | None] = []
        storage.write("data/a", [b"one"], 3)
        changed()
        storage.write("data/b", [b"one"], 3)
        changed()
        storage.replace("data/b", [b"two"], 3)
        changed()
        storage.delete(["data/b"])
        changed()
        with storage.create("data/c", BLOCK, BLOCK) as new:
            new.finish(b"h" * BLOCK)
        mark = changed()
        storage.write("elsewhere/a", [b"one"], 3)
        storage.note("note", b"one")
        assert storage.mark("data") == mark

    def test_the_only_change_since_a_mark_has_the_next_one(self, storage: Storage) -> None:
        assert storage.write("data/a", [b"one"], 3) is None
        since = storage.mark("data")
        new = storage.write("data/b", [b"one"], 3, since)
        if new is not None:
            assert new != since
            assert new == storage.marked("data")
        storage.write("data/c", [b"another's"], 9)
        assert storage.write("data/d", [b"one"], 3, new) is None
        assert storage.write("data/e", [b"one"], 3, since) is None

    def test_a_note_takes_the_place_of_another(self, storage: Storage) -> None:
        storage.write("data/a", [b"one"], 3)
        for data in (b"first", b"second"):
            storage.note("note", data)
            assert self.read(storage, "note") == data

    def test_delete(self, storage: Storage) -> None:
        storage.write("data/a", [b"a"], 1)
        storage.write("data/b", [b"b"], 1)
        assert storage.last("data") == "b"
        storage.delete(["data/a", "data/never-was"])
        assert storage.list("data") == ["b"]
        assert storage.last("data") == "b"

    def test_what_is_open_can_be_read_after_it_is_deleted(self, storage: Storage) -> None:
        storage.write("data/a", [b"still there"], 11)
        source = storage.open("data/a")
        storage.delete(["data/a"])
        assert bytes(read_exactly(source, 0, 11)) == b"still there"
        source.close()

    def test_shared_locks_go_together(self, storage: Storage) -> None:
        with (
            storage.lock(exclusive=False) as first,
            storage.lock(exclusive=False, wait=False) as second,
        ):
            assert first
            assert second

    def test_an_exclusive_lock_is_held_alone(self, storage: Storage) -> None:
        with storage.lock(exclusive=False), storage.lock(exclusive=True, wait=False) as held:
            assert not held
        with storage.lock(exclusive=True, wait=False) as held:
            assert held
            with storage.lock(exclusive=False, wait=False) as other:
                assert not other

    def test_a_lock_is_waited_for(self, storage: Storage) -> None:
        order = []

        def second() -> None:
            with storage.lock(exclusive=True):
                order.append("second")

        with storage.lock(exclusive=True):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(timeout=0.2)
            order.append("first")
        thread.join(timeout=30)
        assert order == ["first", "second"]

    def test_leftovers_are_removed_and_nothing_else(self, storage: Storage) -> None:
        storage.write("data/a", [b"a"], 1)
        with storage.lock(exclusive=True):
            storage.remove_unfinished()
        assert self.read(storage, "data/a") == b"a"
