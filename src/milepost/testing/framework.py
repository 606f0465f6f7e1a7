"""What every framework module must do, as tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from milepost import errors, frameworks
from milepost.checkpoint import Checkpoint
from milepost.frameworks.base import capture_objects
from milepost.state import State, is_array
from milepost.storage.memory import MemoryStorage


class FrameworkTests:
    """Subclass it, and give it a `make` and a `change`."""

    def make(self) -> Any:
        """A new object, always with the same values."""
        raise NotImplementedError

    def change(self, value: Any) -> Any:
        """Give the object other values (train it a step); returns it, or what replaces it."""
        raise NotImplementedError

    def capture(self, value: Any) -> State:
        return capture_objects({"object": value}, frameworks.finder())

    def values(self, value: Any) -> dict[str, Any]:
        """Every leaf as bytes and dtype, or as a plain value."""
        found: dict[str, Any] = {}
        for name, leaf in self.capture(value).leaves.items():
            if is_array(leaf):
                array = np.array(leaf)
                found[name] = (str(array.dtype), array.shape, array.tobytes())
            else:
                found[name] = (type(leaf), repr(leaf))
        return found

    def test_it_is_found(self) -> None:
        assert frameworks.finder()(self.make()) is not None

    def test_change_changes_something(self) -> None:
        assert self.values(self.change(self.make())) != self.values(self.make())

    def test_names_are_the_same_for_one_made_anew(self) -> None:
        first, second = self.make(), self.make()
        assert list(self.capture(first).leaves) == list(self.capture(second).leaves)

    def test_a_changed_object_is_restored_into_a_new_one(self) -> None:
        storage = MemoryStorage()
        changed = self.change(self.make())
        expected = self.values(changed)
        Checkpoint(object=changed).save(storage)
        checkpoint = Checkpoint(object=self.make())
        plan = checkpoint.restore(storage)
        assert plan.is_exact
        assert self.values(checkpoint.object) == expected

    def test_an_object_goes_back_to_where_it_was(self) -> None:
        storage = MemoryStorage()
        changed = self.change(self.make())
        expected = self.values(changed)
        checkpoint = Checkpoint(object=changed)
        checkpoint.save(storage)
        checkpoint.object = self.change(checkpoint.object)
        assert self.values(checkpoint.object) != expected
        checkpoint.restore(storage)
        assert self.values(checkpoint.object) == expected

    def test_saving_again_writes_nothing(self) -> None:
        storage = MemoryStorage()
        checkpoint = Checkpoint(object=self.change(self.make()))
        assert checkpoint.save(storage).written > 0 or not self._has_arrays(checkpoint.object)
        assert checkpoint.save(storage).written == 0

    def test_a_refused_restore_changes_nothing(self) -> None:
        storage = MemoryStorage()
        Checkpoint(object=self.change(self.make()), other=np.ones(3)).save(storage)
        fresh = self.make()
        expected = self.values(fresh)
        checkpoint = Checkpoint(object=fresh)
        with pytest.raises(errors.RestoreRefusedError, match="other"):
            checkpoint.restore(storage)
        assert self.values(checkpoint.object) == expected

    def _has_arrays(self, value: Any) -> bool:
        return any(is_array(leaf) for leaf in self.capture(value).leaves.values())
