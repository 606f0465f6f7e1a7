"""Registered classes and functions, and what their constructors were called with."""

from __future__ import annotations

import pytest

from milepost import registry
from milepost.errors import UsageError
from milepost.registry import arguments_of, call, name_of, register


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(registry, "_by_name", {})


def test_a_class_a_function_and_names_of_ones_own():
    @register
    class Plain: ...

    @register(name="mine>Other")
    class Other: ...

    def function(): ...

    assert register(function, name="f") is function
    assert registry.registered() == {"Plain": Plain, "mine>Other": Other, "f": function}
    assert (name_of(Other), name_of(function), name_of(int)) == ("mine>Other", "f", None)


def test_what_a_constructor_is_called_with_is_recorded():
    @register
    class Net:
        def __init__(self, a, /, b, *rest, c=3, **options):
            self.given = (a, b, rest, c, options)

    net = Net(1, 2, 4, 5, c=6, d=7)
    assert arguments_of(net) == {"a": 1, "b": 2, "rest": (4, 5), "c": 6, "options": {"d": 7}}
    assert call(Net, arguments_of(net)).given == net.given
    assert call(Net, arguments_of(Net(1, b=2))).given == (1, 2, (), 3, {})
    assert arguments_of(object()) is None


def test_a_subclass_that_is_not_registered_records_nothing():
    @register
    class Base:
        def __init__(self, a):
            self.a = a

    class Derived(Base):
        def __init__(self):
            super().__init__(1)

    assert arguments_of(Derived()) is None
    register(Derived)
    assert arguments_of(Derived()) == {}


def test_a_constructor_that_is_inherited():
    class Base:
        def __init__(self, a):
            self.a = a

    @register
    class Derived(Base): ...

    assert arguments_of(Derived(3)) == {"a": 3}
    assert arguments_of(Base(3)) is None
    assert "__milepost_records__" not in vars(Base.__init__)


def test_a_wrong_call_raises_as_it_did():
    @register
    class Net:
        def __init__(self, a):
            self.a = a

    with pytest.raises(TypeError, match="missing 1 required"):
        Net()


def test_a_cell_that_runs_again_replaces_its_class():
    def cell():
        @register
        class Net:
            def __init__(self, a):
                self.a = a

        return Net

    first, second = cell(), cell()
    assert registry.registered() == {"Net": second}
    assert arguments_of(first(1)) is None
    assert register(second) is second  # twice the same: recorded once
    assert arguments_of(second(2)) == {"a": 2}


def test_a_name_that_is_taken():
    register(int, name="x")
    with pytest.raises(UsageError, match=r"'x' is registered already, for builtins\.int"):
        register(float, name="x")


@pytest.mark.parametrize("thing", [3, lambda: 0])
def test_what_has_no_name_is_refused(thing):
    with pytest.raises(UsageError, match="or pass name="):
        register(thing)
