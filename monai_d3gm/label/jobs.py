"""Work that waits for its turn: jobs that report their progress and can be cancelled.

A few threads take the jobs in the order in which they came. One more thread takes short jobs alone, so that a long job
does not hold up a short one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Literal

from monai_d3gm.label.errors import RequestError

__all__ = ["Cancelled", "Job", "Jobs"]

_MOMENT = 10.0
"""Seconds that running jobs have to end when all are cancelled."""

State = Literal["waiting", "running", "done", "failed", "cancelled"]


class Cancelled(Exception):
    """The job was cancelled; its work ends with this."""


class Job:
    """A piece of work.

    Args:
        work: a function of the job; it calls `report` often.
        about: facts for its report, plain values.
        short: whether it may overtake long ones.
        clean: called once, when its results are no longer wanted.

    Attributes:
        id: its name, which cannot be guessed.
        state: waiting, running, done, failed or cancelled.
        progress: the share that is done, 0 to 1.
        future: its result, or the exception that its work raised.
    """

    def __init__(
        self, work: Callable[[Job], Any], about: Mapping[str, Any], short: bool, clean: Callable[[], None]
    ) -> None:
        self.id = secrets.token_urlsafe(12)
        self.about = dict(about)
        self.short = short
        self.state: State = "waiting"
        self.progress = 0.0
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # it is cancelled by `Jobs.remove` alone
        self.ended = 0.0
        self._work = work
        self._clean = clean
        self._stop = threading.Event()

    def report(self, progress: float) -> None:
        """Say how much is done.

        Args:
            progress: the share, 0 to 1.

        Raises:
            Cancelled: the job was cancelled meanwhile.
        """
        if self._stop.is_set():
            raise Cancelled
        self.progress = min(max(progress, self.progress), 1.0)

    def stop(self) -> None:
        """Let the next `report` raise."""
        self._stop.set()

    def run(self) -> None:
        """Do the work in this thread."""
        try:
            self.report(0.0)
            result = self._work(self)
        except Cancelled as error:
            self.end("cancelled", error=error)
        except BaseException as error:
            self.end("failed", error=error)
        else:
            self.progress = 1.0
            self.end("done", result=result)

    def end(self, state: State, *, result: Any = None, error: BaseException | None = None) -> None:
        """Set the last state and what `future` gives."""
        self.state, self.ended = state, time.monotonic()
        if error is None:
            self.future.set_result(result)
            return
        self.clean()
        self.future.set_exception(error)

    def clean(self) -> None:
        """Remove the job's files."""
        clean, self._clean = self._clean, lambda: None
        clean()


class Jobs:
    """The jobs of a server.

    Args:
        workers: jobs that run at once, besides one short job.
        queue: how many more may wait.
        keep: how many jobs that have ended are kept, with their results, until they are fetched.
        seconds: how long they are kept.

    Example:
        >>> jobs = Jobs(workers=1, queue=4)
        >>> job = jobs.submit(lambda job: 2 + 3, {"what": "a sum"}, short=True)
        >>> job.future.result(), job.state
        (5, 'done')
        >>> jobs.close()
    """

    def __init__(self, workers: int, queue: int, keep: int = 64, seconds: float = 3600.0) -> None:
        self.places = workers + 1 + queue
        self._keep, self._seconds = keep, seconds
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(number == workers,), name=f"restoration-{number}", daemon=True)
            for number in range(workers + 1)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        work: Callable[[Job], Any],
        about: Mapping[str, Any],
        *,
        short: bool = False,
        clean: Callable[[], None] = lambda: None,
    ) -> Job:
        """Let work wait for its turn.

        Args:
            work: a function of the job.
            about: facts for its report.
            short: whether it may overtake long ones.
            clean: called once, when its results are no longer wanted.

        Raises:
            RequestError: 503, as many as may be are running or waiting, or the server ends.
        """
        job = Job(work, about, short, clean)
        with self._changed:
            self._forget_old()
            inside = sum(not job.future.done() for job in self._jobs.values())
            if self._closed:
                raise RequestError(503, "the server ends.")
            if inside >= self.places:
                raise RequestError(
                    503,
                    f"{inside} requests are running or waiting, and no more may (the server's settings workers and "
                    "queue); try again later.",
                )
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def get(self, name: str) -> Job:
        """The job of that id.

        Raises:
            RequestError: 404, there is none, or it ended too long ago.
        """
        with self._changed:
            self._forget_old()
            if name not in self._jobs:
                raise RequestError(
                    404, f"no job {name[:80]!r}; what ended is kept for {self._seconds / 60:.0f} minutes."
                )
            return self._jobs[name]

    def all(self) -> list[Job]:
        """The jobs that are waiting, running or kept, in the order in which they came."""
        with self._changed:
            self._forget_old()
            return list(self._jobs.values())

    def before(self, job: Job) -> int:
        """How many jobs wait before this one."""
        with self._changed:
            return self._waiting.index(job) if job in self._waiting else 0

    def remove(self, job: Job) -> None:
        """Cancel a job that has not ended, and forget it with all that it left."""
        with self._changed:
            self._jobs.pop(job.id, None)
            if job in self._waiting:
                self._waiting.remove(job)
                job.end("cancelled", error=Cancelled())
        job.stop()
        if job.future.done():
            job.clean()
        else:
            job.future.add_done_callback(lambda _: job.clean())

    def close(self) -> None:
        """Cancel all jobs, and wait a moment for what runs to end; nothing is taken any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for job in self.all():
            self.remove(job)
        for thread in self._threads:
            thread.join(_MOMENT)

    def _serve(self, short: bool) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next(short) is not None)
                job = self._next(short)
                if job is None:
                    return
                self._waiting.remove(job)
                job.state = "running"
            job.run()
            del job  # its result is not to be kept until the next one

    def _next(self, short: bool) -> Job | None:
        return next((job for job in self._waiting if job.short or not short), None)

    def _forget_old(self) -> None:
        ended = [job for job in self._jobs.values() if job.future.done()]
        first = time.monotonic() - self._seconds
        for number, job in enumerate(sorted(ended, key=lambda job: -job.ended)):
            if number >= self._keep or job.ended < first:
                del self._jobs[job.id]
                job.clean()
