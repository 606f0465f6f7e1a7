"""Whether what a writer does to a folder is the only thing that happens to it.

A mark tells that a folder changed, not how often. So that whoever knew its names before a
change of their own knows them afterwards, without listing them, nobody else may have changed
them meanwhile. Every writer that commits to a store makes a file in `partial/` first, and
gives that its name (docs/format.md, "Commit"). So it is enough to watch that folder, from
before until after: it has a mark, nothing but the writer's own file is in it, and it keeps the
mark.

    watched = alone.watch(fs, partials, [own], folder, since)
    ...                                                         # change names in `folder`
    return alone.renewed(fs, partials, watched, folder)
"""

from __future__ import annotations

from milepost.storage.filesystem import FileSystem


def watch(
    fs: FileSystem, partials: str, own: list[str], folder: str, since: str | None
) -> str | None:
    """The mark of `partials`, if nobody else is at work there, and `folder` is as `since`.

    None if that cannot be known: then nothing is lost but time.
    """
    if since is None:
        return None
    try:
        watched = marked_anew(fs, partials)
        # In this order: whoever comes after the mark is seen in the end, and whoever has gone
        # before the list has left what was done in `folder`.
        if watched is None or fs.list(partials) != own or fs.marked(folder) != since:
            return None
    except OSError:
        return None
    return watched


def renewed(fs: FileSystem, partials: str, watched: str | None, folder: str) -> str | None:
    """A new mark of `folder`, if nobody else has changed it since `watch`."""
    if watched is None:
        return None
    try:
        mark = marked_anew(fs, folder)
        # Last: who comes now makes a file in `partials`, and only then a change that shows.
        return mark if fs.marked(partials) == watched else None
    except Exception:  # the change is made: nothing here may make it seem a failure
        return None


def marked_anew(fs: FileSystem, folder: str) -> str | None:
    """The mark of a folder, which is given one if it has none and can have one."""
    found = fs.marked(folder)
    if found is None:
        fs.mark(folder)
        found = fs.marked(folder)
    return found
