"""Stop where it is safe: a request to end is noted, and answered by the loop when its work is saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

REQUESTS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Notes SIGINT (ctrl-C, a stopped kernel) and SIGTERM while it is open; a second one ends at once.

    Only the main thread of a process gets signals; in another thread nothing is noted and nothing changes.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = [s for s in REQUESTS if signal.getsignal(s) is not signal.SIG_IGN]
            self._former = {s: signal.signal(s, self._note) for s in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.asked is not None:
            self.end()
        self._restore()

    def end(self) -> NoReturn:
        """End as was asked: KeyboardInterrupt for SIGINT, exit code 143 for SIGTERM."""
        self._restore()
        asked, self.asked = self.asked, None
        if asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked is not None, number
        if again:
            self.end()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._former = {}
