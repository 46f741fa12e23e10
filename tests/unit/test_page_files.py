"""The files of the page: nothing inline, nothing from elsewhere, and the charts as they came."""

import hashlib
import re
from pathlib import Path

import pytest

import monitor.web

ASSETS = Path(monitor.web.__file__).parent / "assets"
VENDOR = ASSETS / "vendor"
OWN = sorted(
    path
    for path in ASSETS.rglob("*")
    if path.suffix in {".js", ".css", ".html", ".svg"} and VENDOR not in path.parents
)


def test_the_charting_library_is_the_one_that_its_note_names():
    listed = dict(
        reversed(line.split())
        for line in (VENDOR / "README.txt").read_text(encoding="utf-8").splitlines()
        if re.fullmatch(r"[0-9a-f]{64}  \S+", line)
    )
    assert set(listed) == {path.name for path in VENDOR.iterdir() if path.suffix in {".js", ".css"}}
    for name, digest in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name


def test_its_licence_ships_beside_it_and_the_notice_names_its_version():
    version = re.search(r"uPlot (\S+),", (VENDOR / "README.txt").read_text(encoding="utf-8"))
    notice = Path(monitor.web.__file__).parents[2] / "NOTICE"
    assert version is not None
    assert f"uPlot {version[1]} " in notice.read_text(encoding="utf-8")
    assert "MIT License" in (VENDOR / "uPlot.LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_of_the_page_asks_anybody_else(path):
    text = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, which nobody fetches


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_of_the_page_turns_text_into_markup_or_code(path):
    text = path.read_text(encoding="utf-8")
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
        r"|javascript:|setAttribute\(\"style|\sstyle=|\son\w+=\"",
        text,
    )
    assert found == []


def test_scripts_and_styles_stand_in_files_of_their_own():
    text = (ASSETS / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    assert "<style" not in text
    for name in re.findall(r"(?:src|href)=\"(assets/[^\"]+)\"", text):
        assert (ASSETS / name.removeprefix("assets/")).is_file(), name


@pytest.mark.parametrize("path", [one for one in OWN if one.suffix == ".js"], ids=lambda p: p.name)
def test_every_import_leads_to_a_file(path):
    for name in re.findall(r"from \"([^\"]+)\"", path.read_text(encoding="utf-8")):
        assert (path.parent / name).is_file(), name
