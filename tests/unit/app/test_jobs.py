"""Long work tells what it does, and ends when nobody waits for it."""

import threading

import pytest

from vlm_fo1.app.jobs import Jobs, StoppedError, Watched
from vlm_fo1.errors import (
    PromptError,
)


def test_news_come_as_they_are_and_then_the_result():
    def work(report):
        for number in range(5):
            report(number)
        return "done"

    watched: Watched = Watched(work)
    assert [item for news in watched.news() for item in news] == [0, 1, 2, 3, 4]
    assert watched.result() == "done"


def test_none_is_news_like_any_other():
    watched: Watched = Watched(lambda report: report(None))
    assert [item for news in watched.news() for item in news] == [None]


def test_stopped_work_ends_at_its_next_word():
    jobs = Jobs()
    flag = jobs.begin("me")
    started = threading.Event()

    def work(report):
        report(1)
        started.set()
        while True:
            report(2)

    watched: Watched = Watched(work, flag)
    seen = []
    for news in watched.news(0.01):
        seen += news
        assert jobs.stop("me") or flag.is_set()
    with pytest.raises(StoppedError):
        watched.result()
    assert seen[0] == 1
    jobs.end("me", flag)
    assert not jobs.stop("me")


def test_work_whose_reader_went_away_is_stopped():
    flag, over = threading.Event(), threading.Event()

    def work(report):
        try:
            while True:
                report(0)
        finally:
            over.set()

    news = Watched(work, flag).news(0.01)
    next(news)
    news.close()
    assert over.wait(5)


def test_errors_of_work_reach_who_reads_the_result():
    def work(report):
        raise PromptError("no")

    watched: Watched = Watched(work)
    assert list(watched.news()) == []
    with pytest.raises(PromptError, match="no"):
        watched.result()
