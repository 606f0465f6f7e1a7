"""`save_state` and `load_state`: one tree of values, for code that passes values around.

JAX programs do: a restored tree is a new one, and the natural form is a function.
"""

from __future__ import annotations

from typing import Any

from milepost import frameworks
from milepost.checkpoint.checkpoint import Checkpoint, Path, as_storage
from milepost.errors import UsageError
from milepost.frameworks.base import Finder, Saved
from milepost.frameworks.numpy import ARRAYS
from milepost.storage.base import Storage
from milepost.store import SaveReport, Store

_NAME = "state"


def save_state(
    path: Path | Storage, state: Any, step: int | None = None, **options: Any
) -> SaveReport:
    """Commit one tree of values (parameters, an optimizer's state, anything) to a store.

    Takes the options of `Checkpoint.save`, and raises as it does. With `background=True` it
    returns a `BackgroundSave`, as that does.
    """
    saved: SaveReport = Checkpoint(**{_NAME: state}).save(path, step, **options)
    return saved


def load_state(
    path: Path | Storage, like: Any = None, step: int | str = "latest", **options: Any
) -> Any:
    """The tree that `save_state` saved.

    Arguments:
        like: a tree of the same structure, real or abstract (`jax.eval_shape`). The result
            has its containers, and its arrays' devices and sharding. Without it, the saved
            containers are made anew: dicts, lists, tuples and named tuples as they were,
            objects of other classes as dicts, arrays as NumPy arrays. `like` itself stays as
            it is, unless it holds what is always restored in place (modules, variables).
        options: those of `Checkpoint.restore`; they need `like`.

    Raises:
        UsageError: options without `like`, or a store that `save_state` did not write.
        RestoreRefusedError: the saved tree is not `like` that.
    """
    if like is not None:
        checkpoint = Checkpoint(**{_NAME: _copied(like, frameworks.finder())})
        checkpoint.restore(path, step, **options)
        return checkpoint.objects[_NAME]
    if options:
        raise UsageError(f"{', '.join(options)} need like=: a tree to restore into")
    with Store.open(as_storage(path)).open_step(step) as snapshot:
        if list(snapshot.description.objects) != [_NAME]:
            raise UsageError(
                f"{snapshot.name} was not written by save_state; it holds "
                f"{', '.join(snapshot.description.objects)}: restore them with a Checkpoint"
            )
        leaves = {name: snapshot.read(name) for name in snapshot}
        saved = Saved(leaves, {}, frameworks.finder(), makers=ARRAYS)
        return saved.build(_NAME, snapshot.description.objects[_NAME].structure)


def _copied(tree: Any, find: Finder) -> Any:
    """A tree with containers and arrays of its own, to be restored in place."""
    copied = getattr(find(tree), "copied", None)
    return copied(tree, lambda part: _copied(part, find)) if copied else tree
