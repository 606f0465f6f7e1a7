"""Ctrl-C: by a signal, and at every moment where Python may raise `KeyboardInterrupt`.

A signal's handler runs in the main thread between two bytecodes, and not between any two: only
after a call, on entering a function, and where a loop jumps back (`eval_breaker` in CPython's
`ceval.c`). So a `with` block is never left without its `__exit__` being called.
"""

from __future__ import annotations

import contextlib
import dis
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import milepost

_ROOT = str(Path(milepost.__file__).parent)
_HANDLED_AFTER = {
    number
    for name, number in dis.opmap.items()
    if name.startswith("CALL") or name == "RESUME" or "JUMP_BACKWARD" in name
}


class Interrupt:
    """Interrupts an action at the moment number `at`, or only looks where there are moments."""

    def __init__(self, at: int | None = None) -> None:
        self.moments: list[str] = []
        self._at = at
        self._codes: dict[CodeType, bytes] = {}

    def during(self, action: Callable[[], object]) -> bool:
        """Whether the action was interrupted. Whatever else it raises is raised."""
        before = sys.gettrace()
        sys.settrace(self._entered)
        try:
            action()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    def _entered(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_ROOT):
            return None
        code = self._codes.setdefault(frame.f_code, frame.f_code.co_code)
        last = -1

        def seen(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "opcode":
                if last >= 0 and code[last] in _HANDLED_AFTER:
                    self._moment(frame)
                last = frame.f_lasti
            return seen

        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return seen

    def _moment(self, frame: FrameType) -> None:
        code = frame.f_code
        self.moments.append(f"{code.co_filename[len(_ROOT) + 1 :]}:{frame.f_lineno} {code.co_name}")
        if len(self.moments) - 1 == self._at:
            sys.settrace(None)
            raise KeyboardInterrupt

    def places(self) -> list[int]:
        """The first moment in each line."""
        found: dict[str, int] = {}
        for at, place in enumerate(self.moments):
            found.setdefault(place, at)
        return list(found.values())


@contextlib.contextmanager
def ctrl_c(*seconds: float) -> Iterator[None]:
    """Sends SIGINT to this process so many seconds after the block has begun."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident  # which the system prefers, too
    timers = [
        threading.Timer(after, signal.pthread_kill, [main, signal.SIGINT]) for after in seconds
    ]
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.join()
        signal.signal(signal.SIGINT, before)
