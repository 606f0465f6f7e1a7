"""The promises that the table of errors makes: codes, exit statuses, messages, kinship."""

from __future__ import annotations

import builtins
import inspect
import pickle
import re

import pytest

from milepost import errors
from milepost.errors import MilepostError, RestoreRefusedError

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, MilepostError)
]

# One line of the tree in the docstring: how deep it stands, its name, what else it is.
TREE_LINE = re.compile(r"^    (?P<branch>[|`\- ]*)(?P<name>\w+Error)\b(?P<rest>.*)$", re.MULTILINE)
TREE = [
    (len(match["branch"]) // 4, match["name"], match["rest"])
    for match in TREE_LINE.finditer(errors.__doc__)
]

EXIT_STATUSES = {
    "NotFoundError": 3,
    "UsageError": 2,
    "DamagedError": 4,
    "StorageError": 5,
    "UntrustedError": 6,
    "VersionError": 7,
    "DifferentPredictionError": 8,
}


def make(kind, message):
    return kind(message, plan=None) if kind is RestoreRefusedError else kind(message)


def test_each_class_has_a_code_of_its_own():
    codes = [vars(kind).get("code") for kind in CLASSES]
    assert None not in codes
    assert len(set(codes)) == len(CLASSES) == 18


@pytest.mark.parametrize("kind", CLASSES)
def test_a_code_is_lower_case_words_with_dashes(kind):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_exit_status_is_between_one_and_eight(kind):
    assert type(kind.exit_status) is int
    assert 1 <= kind.exit_status <= 8


@pytest.mark.parametrize(("name", "status"), EXIT_STATUSES.items())
def test_a_whole_group_of_errors_has_one_exit_status(name, status):
    group = [kind for kind in CLASSES if issubclass(kind, getattr(errors, name))]
    assert group
    assert {kind.exit_status for kind in group} == {status}


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_reads_as_its_message_alone(kind):
    assert str(make(kind, "no leaf 'a'")) == "no leaf 'a'"


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not RestoreRefusedError])
def test_an_error_without_a_message_reads_as_its_class(kind):
    assert str(kind()) == kind.__name__


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_says_what_it_is_for(kind):
    assert vars(kind)["__doc__"]


def test_the_tree_in_the_docstring_names_every_class_once():
    assert sorted(name for _, name, _ in TREE) == sorted(kind.__name__ for kind in CLASSES)


def test_the_tree_in_the_docstring_shows_who_is_whose_child():
    above = []
    for depth, name, _ in TREE:
        kind = getattr(errors, name)
        expected = getattr(errors, above[depth - 1]) if depth else Exception
        assert kind.__bases__[0] is expected, name
        above[depth:] = [name]


def test_the_tree_in_the_docstring_tells_the_standard_errors_they_also_are():
    told = {name: re.findall(r"\(also (\w+)\)", rest) for _, name, rest in TREE}
    actual = {
        kind.__name__: [base.__name__ for base in kind.__bases__ if not is_ours_or_root(base)]
        for kind in CLASSES
    }
    assert told == actual


def is_ours_or_root(base):
    return issubclass(base, MilepostError) or base is Exception


def test_only_standard_errors_stand_beside_ours():
    for kind in CLASSES:
        for base in kind.__mro__:
            assert base in CLASSES or getattr(builtins, base.__name__) is base


def test_a_missing_leaf_is_caught_as_a_key_error():
    with pytest.raises(KeyError, match=r"^gone$"):
        raise errors.LeafNotFoundError("gone")


def test_a_missing_path_is_caught_as_a_file_not_found_error():
    with pytest.raises(FileNotFoundError, match=r"^gone$"):
        raise errors.PathNotFoundError("gone")


def test_a_refused_restore_carries_its_plan():
    plan = object()
    error = RestoreRefusedError("not exact", plan)
    assert error.plan is plan
    assert error.args == ("not exact",)


def test_a_refused_restore_can_be_sent_to_another_process():
    error = pickle.loads(pickle.dumps(RestoreRefusedError("no", {"plan": 1})))
    assert str(error) == "no"
    assert error.plan == {"plan": 1}
