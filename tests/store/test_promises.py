"""Any sequence of saves, reopenings, prunings, failures and losses of power keeps the promises."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from milepost import errors
from milepost.storage.faults import PowerFailure, PowerLossDisk
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, prune, verify_store

from .conftest import check, make_state

values = st.integers(0, 5)
steps = st.integers(0, 12)


class StoreMachine(RuleBasedStateMachine):
    """A store on a disk that may lose power, beside a plain dict of what it must hold."""

    @initialize()
    def start(self) -> None:
        self.disk = PowerLossDisk()
        self.expected: dict[int, tuple[int, int]] = {}
        self.reopen()

    @rule()
    def reopen(self) -> None:
        self.writer = Writer(Store.open_or_create(LocalStorage("/store", self.disk)))

    def _save(self, step: int, value: int, frozen: int, overwrite: bool) -> None:
        self.writer.save(make_state(value, frozen=frozen), step, overwrite=overwrite)
        self.expected[step] = (value, frozen)

    @rule(step=steps, value=values, frozen=st.integers(0, 1), overwrite=st.booleans())
    def save(self, step: int, value: int, frozen: int, overwrite: bool) -> None:
        if step in self.expected and not overwrite:
            with pytest.raises(errors.StepExistsError):
                self._save(step, value, frozen, overwrite)
        else:
            self._save(step, value, frozen, overwrite)

    @rule(kept=st.sets(steps))
    def prune(self, kept: set[int]) -> None:
        if self.expected:
            kept = kept | {max(self.expected)}
            prune(self.writer.store, lambda _: kept)
            self.expected = {s: v for s, v in self.expected.items() if s in kept}

    @rule(step=steps, value=values, overwrite=st.booleans(), at=st.integers(1, 25), seed=values)
    def lose_power_in_a_save(
        self, step: int, value: int, overwrite: bool, at: int, seed: int
    ) -> None:
        before = self.expected.get(step)
        self.disk.fail_at = self.disk.changes + at
        with contextlib.suppress(PowerFailure, errors.StepExistsError):
            self._save(step, value, 0, overwrite)
        self.disk = self.disk.after_loss(seed)
        self.reopen()
        # Of the step that was being saved: what was there, or what was to come.
        self.expected.pop(step, None)
        if step in self.writer.store:
            with self.writer.store[step] as found:
                self.expected[step] = (found["progress/epoch"], int(found["model/frozen"][0, 0]))
        assert self.expected.get(step) in (before, (value, 0))

    @invariant()
    def everything_is_there(self) -> None:
        store = Store.open(LocalStorage("/store", self.disk))
        assert store.steps == sorted(self.expected)
        for step, (value, frozen) in self.expected.items():
            with store[step] as checkpoint:
                check(checkpoint, make_state(value, frozen=frozen))

    def teardown(self) -> None:
        store = Store.open(LocalStorage("/store", self.disk))
        assert list(verify_store(store)) == []
        Writer(store).save(make_state(1), 100)
        assert self.disk.list("/store/partial") == []


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


class TestStoreLong(StoreMachine.TestCase):
    pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
    settings = settings(max_examples=2000, stateful_step_count=40, deadline=None)
