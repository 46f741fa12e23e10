"""The report of an export for people: table, CSV and picture."""

import csv
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.front import Candidate, pareto_front
from exporter.labels import Box, place_labels, text_box
from exporter.picture import draw_report
from exporter.report import (
    COLUMNS,
    ExportReport,
    FormRow,
    WidthRow,
    WrittenFile,
    csv_text,
    index_document,
    table_lines,
)

FORMS = ("fp32", "int8-static", "int8-dynamic")


def report(count, *, forms=FORMS, scored=True, budget="", fleet=""):
    """Return what an export of so many widths could have found."""
    rng = np.random.default_rng(count)
    widths = np.linspace(1 / count, 1, count).round(4)
    size = {
        form: (lambda w, k=k: int((20e3 + 9e5 * w * w) / k))
        for form, k in zip(FORMS, (1, 4, 4), strict=True)
    }
    latency = {"fp32": 1.0, "int8-static": 0.6, "int8-dynamic": 5.0}
    found = [
        (w, f, (2e-5 + 5e-4 * w * w) * latency[f], size[f](w), 0.8 + 0.1 * w + rng.normal(0, 0.002))
        for w in widths.tolist()
        for f in forms
    ]
    front = pareto_front([Candidate(s if scored else None, t, b) for _, _, t, b, s in found])
    rows = []
    for width in widths.tolist():
        here = [(one, on) for one, on in zip(found, front, strict=True) if one[0] == width]
        chosen = "int8-static" if "int8-static" in forms else "fp32"
        written = WrittenFile(f"net-w{width}.onnx", f"net-w{width}.manifest.json", "ab", 9)
        made = tuple(
            FormRow(
                form=form,
                written=written if form in {"fp32", chosen} else None,
                preoptimised=None,
                size=bytes_,
                latency_median_s=seconds,
                latency_p95_s=seconds * 1.2,
                score=score if scored else None,
                parity=1e-7,
                on_front=on,
                over_budget="",
                note="" if form == chosen else "0.0162 ms, 1.07x of fp32, which is not faster",
            )
            for (_, form, seconds, bytes_, score), on in here
        )
        rows.append(
            WidthRow(
                width, 123_456_789, "calibrated", chosen, chosen, "best of all", False, {}, made
            )
        )
    return ExportReport(
        model="plant.models:a_network_with_a_long_name",
        spec_hash="00",
        weights="round 12 of /srv/slimfleet/data",
        fleet=fleet,
        round=12,
        task="classification",
        classes=("a", "b"),
        scale="",
        score_name="accuracy",
        score_data="test.npz, 2000 samples",
        budget=budget,
        machine="x86_64, onnxruntime 1.23.0",
        threads=1,
        calls=50,
        widths=tuple(rows),
    )


CASES = [
    report(4),
    report(16, fleet="plant"),
    report(1, forms=("fp32",)),
    report(4, scored=False),
    report(3, budget="latency<=100us,size<=1MB", fleet="plant"),
]


@pytest.mark.parametrize("case", CASES)
def test_the_table_fits_a_terminal_and_has_a_line_per_width(case):
    lines = table_lines(case)
    assert max(map(len, lines)) <= COLUMNS
    start = next(place for place, line in enumerate(lines) if line.split()[:1] == ["width"])
    table = lines[start + 1 : start + 1 + len(case.widths)]
    assert [float(line.split()[0]) for line in table] == [row.width for row in case.widths]
    assert "THIS machine" in " ".join(lines)


@pytest.mark.parametrize("case", CASES)
def test_the_csv_holds_every_form_and_nothing_is_rounded(case):
    rows = list(csv.DictReader(io.StringIO(csv_text(case))))
    forms = [(row, form) for row in case.widths for form in row.forms]
    assert len(rows) == len(forms)
    for found, (row, form) in zip(rows, forms, strict=True):
        assert (float(found["width"]), found["form"]) == (row.width, form.form)
        assert float(found["latency_median_s"]) == form.latency_median_s
        assert found["score"] == ("" if form.score is None else repr(form.score))
        assert int(found["chosen"]) == (form.form == row.chosen)
        assert found["file"] == (form.written.name if form.written else "")


def test_the_index_names_the_chosen_file_of_each_width():
    document = index_document(report(4))
    assert document["format"] == 1
    assert [row["file"] for row in document["widths"]] == [
        f"net-w{w}.onnx" for w in (0.25, 0.5, 0.75, 1.0)
    ]


@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_drawn_and_always_the_same(case):
    drawn = draw_report(case)
    width, height = struct.unpack(">II", drawn[16:24])
    assert (width, height) == (1290, 810)
    assert drawn == draw_report(case)


def test_a_name_beyond_the_font_is_drawn_too():
    one = report(2)
    strange = type(one)(**{**vars(one), "model": "网络 $x^2$ \u202e", "fleet": "fábrica"})
    assert draw_report(strange).startswith(b"\x89PNG")


# --- labels -------------------------------------------------------------------------------------

PLACES = st.builds(Box, st.floats(0, 400), st.floats(0, 300), st.floats(1, 30), st.floats(1, 30))
FRAME = Box(200, 150, 500, 400)


def test_a_lone_label_stands_above_its_mark():
    ((x, y),) = place_labels([Box(100, 100, 10, 10)], [(40, 10)], FRAME)
    assert x == 100
    assert 110 < y < 120


@given(PLACES)
def test_a_lone_label_never_hides_its_mark(mark):
    ((x, y),) = place_labels([mark], [(40.0, 10.0)], FRAME)
    assert Box(x, y, 40, 10).overlap(mark) == pytest.approx(0.0, abs=1e-6)


@given(st.lists(PLACES, max_size=8))
def test_every_mark_has_one_label_and_none_leaves_the_frame_far(marks):
    sizes = [(40.0, 10.0)] * len(marks)
    placed = place_labels(marks, sizes, FRAME)
    assert len(placed) == len(marks)
    for x, y in placed:
        assert Box(x, y, 40, 10).overlap(FRAME) > 0


def test_two_marks_side_by_side_have_labels_that_do_not_overlap():
    marks = [Box(100, 100, 10, 10), Box(108, 100, 10, 10)]
    first, second = place_labels(marks, [(40, 10), (40, 10)], FRAME)
    assert Box(*first, 40, 10).overlap(Box(*second, 40, 10)) == 0


def test_shared_areas_are_those_of_rectangles():
    one = Box(0, 0, 2, 2)
    assert one.overlap(Box(1, 1, 2, 2)) == 1
    assert one.overlap(Box(0, 0, 10, 10)) == 4
    assert one.overlap(Box(2, 0, 2, 2)) == 0
    assert Box(0, 0, 4, 4).outside(Box(2, 0, 4, 4)) == 8


def test_a_text_of_two_lines_is_as_wide_as_the_longer():
    assert text_box("ab\nabcd", 10)[0] == text_box("abcd", 10)[0]
    assert text_box("ab\nabcd", 10)[1] == 2 * text_box("ab", 10)[1]
