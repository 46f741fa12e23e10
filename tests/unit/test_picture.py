from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from monitor.picture import DEVICE, numbered, svg_picture, write_picture
from tests.fakes.reports import HOSTILE, device_row, empty_report, free_rider, run_report


def texts(svg):
    """Return what the outlined texts say; the drawing keeps them as comments."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))  # noqa: S314 - our drawing
    root = ET.fromstring(svg, parser)  # noqa: S314 - our drawing
    return [node.text.strip() for node in root.iter() if node.tag is ET.Comment]


@pytest.fixture
def svg(tmp_path):
    def draw(report):
        write_picture(report, tmp_path / "picture.svg")
        return (tmp_path / "picture.svg").read_bytes()

    return draw


def test_the_same_report_gives_the_same_bytes(svg):
    assert svg(run_report()) == svg(run_report())


def test_no_date_and_no_version_stand_in_the_picture(svg):
    drawn = svg(run_report())
    assert b"<dc:date>" not in drawn
    assert b"Matplotlib" not in drawn


def test_a_png_is_written_by_its_suffix(tmp_path):
    write_picture(run_report(), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        write_picture(run_report(), tmp_path / "picture.jpg")


def test_every_device_is_listed_with_what_it_earned(svg):
    said = texts(svg(run_report()))
    assert "pump-1" in said
    assert "width 0.25, 0.601" in said
    assert "pump-2" in said
    assert "rider" in said
    assert "no release" in said


def test_a_device_without_release_has_no_place_on_the_curve(svg):
    with_rider = svg(run_report(devices=(free_rider(),)))
    assert DEVICE.encode() not in with_rider


def test_devices_of_one_width_are_stacked_and_counted(svg):
    many = tuple(device_row(f"pump-{number}") for number in range(9))
    said = texts(svg(run_report(devices=many)))
    assert "+6" in said  # three are shown


def test_more_devices_than_fit_are_counted(svg):
    many = tuple(device_row(f"pump-{number}") for number in range(40))
    assert "and 14 more: see the table" in texts(svg(run_report(devices=many)))


def test_a_width_that_is_not_offered_and_the_training_grid_are_explained(svg):
    said = texts(svg(run_report()))
    assert "worse than a narrower width: not offered" in said
    assert "trained and rewarded width" in said
    assert "reward width between them" in said


def test_numbers_follow_the_order_of_the_report():
    assert [(n, row.device) for n, row in numbered(run_report().devices)] == [
        (1, "pump-1"),
        (2, "pump-2"),
        (3, "rider"),
    ]


def test_an_empty_report_is_drawn(svg):
    said = texts(svg(empty_report()))
    assert "No round was aggregated: there is no curve." in said
    assert "No device appeared." in said


def test_a_report_of_one_device_is_drawn(svg):
    assert "pump-1" in texts(svg(run_report(devices=(device_row(),))))


def test_hostile_names_stay_text(svg):
    report = run_report(
        devices=(device_row(HOSTILE), device_row("\N{SNOWMAN}\x1b[2J")), score_name=HOSTILE
    )
    drawn = svg(report)
    ET.fromstring(drawn)  # noqa: S314 - our drawing
    assert b"<script" not in drawn
    assert b"<img" not in drawn


def test_the_picture_for_a_page_has_no_background_and_no_declaration():
    drawn = svg_picture(run_report())
    assert drawn.startswith("<svg")
    assert "<!DOCTYPE" not in drawn


def test_a_reward_width_that_was_not_measured_is_listed_all_the_same(svg):
    row = replace(device_row(), reward_width=0.875)
    assert "width 0.875" in texts(svg(run_report(devices=(row,))))
