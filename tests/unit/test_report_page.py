from html.parser import HTMLParser

import pytest

from monitor.page import (
    page_text,
    show_bytes,
    show_latencies,
    show_score,
    show_seconds,
    show_times,
    write_page,
)
from tests.fakes.reports import HOSTILE, device_row, empty_report, free_rider, run_report

VOID = {"meta", "br", "img", "link", "hr"}
FETCHES = {"src", "srcset", "action", "formaction", "poster", "data", "background", "ping"}


class Reader(HTMLParser):
    """Tags, attributes and text; notices tags that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words, self.crossed = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.crossed
    assert not reader.open
    return reader


def test_every_field_of_a_device_stands_in_the_page():
    text = read(page_text(run_report(devices=(device_row(),)))).text
    for shown in (
        "pump-1",
        "raspberry-pi-4 (emulated)",
        "1.2 / 1.5 s",
        "width 0.5: predicted 1.2 s of 3 s",
        "11 / 1",
        "late: 0.4 s after the deadline",
        "+0.125 (1.40)",
        "1.40 times the average contribution",
        "0.712",
        "0.934",
        "0.561",
        "45 kB",
        "0.21 / 0.34 ms",
        "ab" * 32,
    ):
        assert shown in text


def test_the_page_says_how_it_was_measured_and_shows_every_notice():
    text = read(page_text(run_report())).text
    assert "All machines are EMULATED." in text
    assert "What was measured, and how" in text
    assert "permutation-shapley" in text
    assert "equal-gain" in text
    assert "budget of 3 rounds used up" in text


def test_rounds_show_their_funnel_bytes_and_drops():
    text = read(page_text(run_report())).text
    assert "2 3 2 3.0 s 0.750 410 kB 1.3 MB pump-1: late" in text
    assert "820 kB of weights shared and 3.2 MB of updates" in text


def test_the_curve_shows_what_is_offered_and_who_is_there():
    text = read(page_text(run_report())).text
    assert "0.25 0.600 0.550 to 0.650 0.601 yes yes 1" in text
    assert "no: significantly worse than a narrower width" in text


def test_nothing_is_fetched_from_anywhere():
    reader = read(page_text(run_report()))
    names = {name for name, _ in reader.attributes}
    assert not names & FETCHES
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(reader.tags)
    references = [value for name, value in reader.attributes if name in {"href", "xlink:href"}]
    assert all(value.startswith("#") for value in references)
    policies = [value for name, value in reader.attributes if name == "content"]
    assert any("default-src 'none'" in value for value in policies)


def test_a_hostile_name_is_shown_and_not_obeyed():
    hostile = device_row(
        HOSTILE,
        machine=HOSTILE,
        training_reason=HOSTILE,
        reward_reason=HOSTILE,
        missed_why=HOSTILE,
        confirmed=HOSTILE,
    )
    page = page_text(
        run_report(
            title=HOSTILE,
            fleet=HOSTILE,
            notices=(HOSTILE,),
            score_name=HOSTILE,
            devices=(hostile,),
            stopped=HOSTILE,
            rule=HOSTILE,
            rule_note=HOSTILE,
            method=HOSTILE,
        )
    )
    reader = read(page)
    assert not {"script", "img"} & set(reader.tags)
    assert "<script" not in page
    assert "<script>alert(1)</script>" in reader.text


def test_an_empty_report_reads_as_one():
    text = read(page_text(empty_report())).text
    assert "No device appeared." in text
    assert "No round was closed." in text
    assert "Nothing was measured: no round was aggregated." in text


def test_one_device_without_release_reads_as_such():
    text = read(page_text(run_report(devices=(free_rider(),)))).text
    assert "0 of 1" in text
    assert "no release" in text
    assert "no model of this run" in text


def test_light_and_dark_phone_and_paper_have_their_rules():
    page = page_text(run_report())
    for rule in ("prefers-color-scheme: dark", "max-width: 52rem", "@media print", "viewport"):
        assert rule in page


def test_the_page_is_written_as_one_file(tmp_path):
    write_page(run_report(), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page_text(run_report())


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_score(None), "\N{EN DASH}"),
        (show_score(0.7125), "0.713"),
        (show_score(0.0), "0.000"),
        (show_seconds(None), "\N{EN DASH}"),
        (show_seconds(12.34), "12.3 s"),
        (show_seconds(1234.5), "1234 s"),
        (show_bytes(0), "\N{EN DASH}"),
        (show_bytes(999), "999 B"),
        (show_bytes(45_100), "45 kB"),
        (show_bytes(1_250_000), "1.2 MB"),
        (show_times(device_row(observed_s=None)), "1.2 / \N{EN DASH} s"),
        (show_times(device_row(predicted_s=0.0, observed_s=None)), "\N{EN DASH} / \N{EN DASH}"),
        (show_latencies(free_rider()), "\N{EN DASH}"),
    ],
)
def test_figures_are_rounded_for_people(shown, expected):
    assert shown == expected
