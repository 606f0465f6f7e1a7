"""Every error that milepost raises, grouped by what the caller can do about it.

    MilepostError
    |-- NotFoundError                look elsewhere
    |   |-- PathNotFoundError        (also FileNotFoundError)
    |   |-- StepNotFoundError        (also KeyError)
    |   `-- LeafNotFoundError        (also KeyError)
    |-- UsageError                   change the call           (also ValueError)
    |   |-- NotAStoreError           the path holds something else
    |   |-- UnknownFormatError       no format that milepost reads
    |   |-- StepExistsError          (also FileExistsError)
    |   |-- UnsupportedObjectError   cannot be captured        (also TypeError)
    |   |-- RestoreRefusedError      the plan is not exact; carries `.plan`
    |   |-- UnknownClassError        register the class, or pass it
    |   `-- MissingPackageError      install the package       (also ImportError)
    |-- DamagedError                 restore a backup, or an older step
    |-- StorageError                 free disk, change permissions   (also OSError)
    |-- UntrustedError               do not open this file     (also ValueError)
    |-- VersionError                 upgrade milepost
    `-- DifferentPredictionError     find out what changed: framework, device, file

Each class has a stable `code` for logs and scripts, and the `exit_status` with which the
command line ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from milepost.checkpoint.plan import RestorePlan


class MilepostError(Exception):
    """Base of every error of ours."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, OSError its own layout.
        return str(self.args[0]) if self.args else type(self).__name__


class NotFoundError(MilepostError):
    """What was asked for is not there."""

    code = "not-found"
    exit_status = 3


class PathNotFoundError(NotFoundError, FileNotFoundError):
    """A path does not exist."""

    code = "path-not-found"


class StepNotFoundError(NotFoundError, KeyError):
    """A store has no such step, or none at all."""

    code = "step-not-found"


class LeafNotFoundError(NotFoundError, KeyError):
    """A snapshot has no leaf of that name."""

    code = "leaf-not-found"


class UsageError(MilepostError, ValueError):
    """The call itself has to change."""

    code = "usage"
    exit_status = 2


class NotAStoreError(UsageError):
    """A path that should be a store of checkpoints is something else."""

    code = "not-a-store"


class UnknownFormatError(UsageError):
    """A file is of no format that milepost reads, or of one that does not serve here."""

    code = "unknown-format"


class StepExistsError(UsageError, FileExistsError):
    """The step is committed already, by this process or by another."""

    code = "step-exists"


class UnsupportedObjectError(UsageError, TypeError):
    """An object, named by its leaf, cannot be captured or rebuilt."""

    code = "unsupported-object"


class RestoreRefusedError(UsageError):
    """A restore would not be exact. Nothing was changed; `plan` lists every leaf."""

    code = "restore-refused"

    def __init__(self, message: str, plan: RestorePlan) -> None:
        super().__init__(message)
        self.plan = plan

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.plan)


class UnknownClassError(UsageError):
    """A model file names a class that is neither the framework's nor registered."""

    code = "unknown-class"


class MissingPackageError(UsageError, ImportError):
    """A package is needed that is not installed; the message has the command."""

    code = "missing-package"


class DamagedError(MilepostError):
    """Stored bytes are not what was saved: flipped, cut short, or gone."""

    code = "damaged"
    exit_status = 4


class StorageError(MilepostError, OSError):
    """The storage refused: disk full, read-only, no permission, input/output error."""

    code = "storage"
    exit_status = 5


class UntrustedError(MilepostError, ValueError):
    """A file asks for something that opening a file must never do."""

    code = "untrusted"
    exit_status = 6


class VersionError(MilepostError):
    """Written by a newer milepost, in a format that this one does not know."""

    code = "version"
    exit_status = 7


class DifferentPredictionError(MilepostError):
    """A model does not predict on its example what it predicted when it was saved."""

    code = "different-prediction"
    exit_status = 8
