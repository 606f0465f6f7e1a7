"""What a pickle may name: what every model file does, what is a known weapon, and the rest."""

from __future__ import annotations

from milepost.encodings.pickle import Global
from milepost.scanning.report import Severity

# Plain data, and what PyTorch and NumPy rebuild arrays with.
_HARMLESS = {
    "collections": {"OrderedDict", "defaultdict", "Counter", "deque"},
    "__builtin__": {"set", "frozenset", "complex", "list", "dict", "tuple", "bytearray", "slice"},
    "builtins": {"set", "frozenset", "complex", "list", "dict", "tuple", "bytearray", "slice"},
    "copy_reg": {"_reconstructor"},
    "copyreg": {"_reconstructor"},
    "_codecs": {"encode"},
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "argparse": {"Namespace"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"},
    "numpy": {"dtype", "ndarray", "bool_", "float16", "float32", "float64", "int8", "int16",
              "int32", "int64", "uint8", "uint16", "uint32", "uint64", "complex64", "complex128"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "torch": {"Size", "device", "Tensor", "dtype", "Generator", "layout", "memory_format",
              "strided", "sparse_coo", "contiguous_format", "per_tensor_affine",
              "per_channel_affine", "BoolTensor"},
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3",
                     "_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_qtensor",
                     "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage",
                     "_rebuild_nested_tensor", "_rebuild_device_tensor_from_numpy",
                     "_rebuild_device_tensor_from_cpu_tensor"},
    "torch._tensor": {"_rebuild_from_type_v2"},
    "torch.storage": {"UntypedStorage", "TypedStorage", "_TypedStorage", "_UntypedStorage"},
    "torch.nn.parameter": {"Parameter", "Buffer", "UninitializedParameter"},
    "torch.jit._pickle": {"build_intlist", "build_tensorlist", "build_doublelist",
                          "build_boollist", "build_tensor_from_id", "restore_type_tag"},
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata",
        "ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING", "StorageMeta"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
}  # fmt: skip
# Dtypes (`torch.float32`) and typed storages (`torch.FloatStorage`).
_TORCH_DTYPES = ("float", "bfloat", "int", "uint", "complex", "bool", "qint", "quint", "half",
                 "double", "long", "short", "bits", "cfloat", "cdouble", "chalf")  # fmt: skip

# Modules no part of which a model needs, and by which code is run, files or sockets are opened.
_WEAPONS = frozenset(
    """
    os posix nt subprocess sys socket shutil runpy importlib imp pty commands webbrowser
    ctypes _ctypes code codeop bdb pdb timeit trace profile cProfile pydoc doctest pip
    ensurepip venv multiprocessing threading _thread asyncio concurrent signal platform site
    sysconfig distutils setuptools ssl http urllib urllib2 requests httpx aiohttp ftplib
    smtplib telnetlib xmlrpc socketserver cloudpickle dill marshal pickle _pickle joblib
    types operator _operator functools builtins __builtin__ io _io tempfile pathlib glob
    zipimport pkgutil inspect gc linecache fileinput logging zipfile tarfile sqlite3 dbm
    shelve mmap fcntl winreg _winapi msvcrt antigravity idlelib lib2to3 unittest test nose
    pytest weakref atexit faulthandler uuid getpass pwd spwd curses readline rlcompleter
    """.split()  # noqa: SIM905
)
_WEAPON_NAMES = frozenset({
    "torch.load", "torch.hub.load", "torch.jit.load", "torch.utils.cpp_extension.load",
    "torch.utils.cpp_extension.load_inline", "torch._inductor.codecache.compile_file",
    "torch.serialization.load", "torch.storage._load_from_bytes", "numpy.load",
    "numpy.testing._private.utils.runstring", "numpy.f2py.crackfortran.getlincoef",
    "numpy.distutils.exec_command", "pandas.read_pickle", "pandas.eval", "sklearn.utils._joblib",
})  # fmt: skip


def judged(name: Global) -> tuple[Severity, str] | None:
    """How bad it is that a pickle names this, and why; None for what every model file names."""
    if _is_harmless(name):
        return None
    root = name.module.partition(".")[0]
    if root in _WEAPONS or str(name) in _WEAPON_NAMES or "exec" in name.name.split("."):
        return Severity.DANGEROUS, "runs code, or reaches files and processes, when it is unpickled"
    if "?" in (name.module, name.name):
        return Severity.DANGEROUS, "names something in a way that hides what"
    if root in ("torch", "numpy", "sklearn", "transformers", "lightning", "pytorch_lightning"):
        return Severity.SUSPICIOUS, "a known library's, and more than plain data"
    return Severity.SUSPICIOUS, "is imported and called when it is unpickled, whatever it does"


def _is_harmless(name: Global) -> bool:
    if name.name in _HARMLESS.get(name.module, ()):
        return True
    if name.module in ("torch", "torch.cuda") and "." not in name.name:
        typed = name.name.endswith("Storage") or name.name.endswith("Tensor")
        return typed or name.name.startswith(_TORCH_DTYPES)
    # A class of TorchScript, which lies beside the pickle, in a language of its own.
    if name.module.partition(".")[0] == "__torch__":
        return True
    # By their names alone: a module has more to reach, the built-in functions to begin with.
    if name.module == "numpy.dtypes":
        return name.name.isidentifier() and name.name.endswith("DType")
    return name.module == "numpy" and name.name.rstrip("_0123456789") in ("float", "int", "uint")
