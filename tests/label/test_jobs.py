"""Jobs: their order, their limits, cancellation, and what is kept of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.jobs import Cancelled, Job, Jobs


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs(workers=1, queue=2, keep=2)
    yield made
    made.close()


class Held:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> str:
        self.started.set()
        while not self.go.wait(0.01):
            job.report(0.5)
        return "done"


def test_a_short_job_overtakes_long_ones_that_run_and_wait(jobs: Jobs) -> None:
    long = [Held(), Held()]
    submitted = [jobs.submit(work, {}) for work in long]
    assert long[0].started.wait(10)
    assert jobs.submit(lambda job: "short", {}, short=True).future.result(10) == "short"
    assert [job.state for job in submitted] == ["running", "waiting"]
    assert jobs.before(submitted[1]) == 0
    for work in long:
        work.go.set()
    assert [job.future.result(10) for job in submitted] == ["done", "done"]


def test_long_jobs_do_not_take_the_place_of_short_ones(jobs: Jobs) -> None:
    """With one worker two long jobs never run at once, though there is a second thread."""
    first, second = Held(), Held()
    jobs.submit(first, {})
    waiting = jobs.submit(second, {})
    assert first.started.wait(10)
    assert not second.started.wait(0.2) and waiting.state == "waiting"
    second.go.set()
    first.go.set()
    assert waiting.future.result(10) == "done"


def test_no_more_than_the_places_are_taken(jobs: Jobs) -> None:
    work = Held()
    taken = [jobs.submit(work, {}) for _ in range(4)]  # one runs, one place is for a short one, two wait
    with pytest.raises(RequestError, match="4 requests are running or waiting") as refused:
        jobs.submit(work, {})
    assert refused.value.status == 503
    jobs.remove(taken[-1])
    jobs.submit(work, {})
    work.go.set()


def test_a_running_job_is_cancelled_at_its_next_report_and_cleans_up(jobs: Jobs) -> None:
    cleaned = threading.Event()
    work = Held()
    job = jobs.submit(work, {}, clean=cleaned.set)
    assert work.started.wait(10)
    jobs.remove(job)
    with pytest.raises(Cancelled):
        job.future.result(10)
    assert job.state == "cancelled" and cleaned.wait(10)
    with pytest.raises(RequestError, match="no job"):
        jobs.get(job.id)


def test_a_waiting_job_that_is_cancelled_never_runs(jobs: Jobs) -> None:
    first, second = Held(), Held()
    jobs.submit(first, {})
    job = jobs.submit(second, {})
    jobs.remove(job)
    with pytest.raises(Cancelled):
        job.future.result(10)
    first.go.set()
    assert jobs.submit(lambda job: 1, {}).future.result(10) == 1
    assert not second.started.is_set()


def test_an_error_is_kept_and_the_worker_goes_on(jobs: Jobs) -> None:
    def fail(job: Job) -> None:
        raise RuntimeError("broken")

    job = jobs.submit(fail, {})
    with pytest.raises(RuntimeError, match="broken"):
        job.future.result(10)
    assert jobs.get(job.id).state == "failed"
    assert jobs.submit(lambda job: job.report(2.0), {}).future.result(10) is None


def test_of_what_ended_the_last_ones_are_kept(jobs: Jobs) -> None:
    cleaned: list[int] = []
    ended = [jobs.submit(lambda job: 1, {}, clean=lambda n=n: cleaned.append(n)) for n in range(2)]
    for job in ended:
        job.future.result(10)
    ended.append(jobs.submit(lambda job: 1, {}, clean=lambda: cleaned.append(2)))
    ended[-1].future.result(10)
    assert [job.id for job in jobs.all()] == [job.id for job in ended[1:]]
    assert cleaned == [0]


def test_closing_cancels_what_runs_and_waits(jobs: Jobs) -> None:
    work = Held()
    submitted = [jobs.submit(work, {}) for _ in range(2)]
    assert work.started.wait(10)
    jobs.close()
    assert [job.state for job in submitted] == ["cancelled", "cancelled"]  # it has ended, not only been told to
    for job in submitted:
        with pytest.raises(Cancelled):
            job.future.result(10)
    with pytest.raises(RequestError, match="the server ends"):
        jobs.submit(work, {})
