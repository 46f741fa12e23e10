"""The folder of templates: damage, rivals, a limit, and a disk that refuses."""

import dataclasses
import hashlib
import logging
import os
import threading
from pathlib import Path

import msgspec
import pytest

from exporter.templates import SUFFIX, TemplateCache, warm_templates
from exporter.tracing import Template
from tests.fakes.toy_models import toy

pytestmark = pytest.mark.torch

TEMPLATE = Template(
    graph=b"traced" * 50,
    prepared=b"prepared" * 50,
    used=frozenset({"first.weight"}),
    constants=frozenset({"centre"}),
    traced_now=True,
)
WIDTHS = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture
def traced(monkeypatch):
    """Count the networks that would be traced, without tracing any."""
    widths = []

    def trace(model, width):
        widths.append(width)
        return TEMPLATE

    monkeypatch.setattr("exporter.templates.trace_template", trace)
    return widths


@pytest.fixture
def model():
    return toy()


@pytest.fixture
def cache(tmp_path, traced):
    return TemplateCache(tmp_path / "templates")


def path_of(cache, model, width=0.5):
    return cache.path(model, width, model.build(width))


def sealed(body):
    return hashlib.sha256(body).hexdigest().encode() + body


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_kept_comes_back_whole(cache, model, traced):
    cache.get(model, 0.5)
    again = cache.get(model, 0.5)

    assert traced == [0.5]
    assert again == dataclasses.replace(TEMPLATE, traced_now=False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        lambda whole: bytes([whole[0] ^ 1]) + whole[1:],
        lambda whole: b"",
        lambda whole: b"\x08\x08\x12\x07pytorch" * 40,
        lambda whole: sealed(b""),
        lambda whole: sealed(b"\xff" * 40),
        lambda whole: sealed(msgspec.msgpack.encode({"graph": b"a", "used": 3})),
        lambda whole: sealed(msgspec.msgpack.encode(["a", "list"])),
    ],
    ids=["cut", "bit", "seal", "empty", "foreign", "void", "noise", "fields", "list"],
)
def test_a_damaged_entry_is_traced_anew_with_one_line(damage, cache, model, traced, caplog):
    cache.get(model, 0.5)
    path = path_of(cache, model)
    path.write_bytes(damage(path.read_bytes()))

    with caplog.at_level(logging.INFO, logger="exporter.templates"):
        assert cache.get(model, 0.5).traced_now
        assert not cache.get(model, 0.5).traced_now

    assert len(traced) == 2
    (line,) = warnings_in(caplog)
    assert "was damaged" in line
    assert str(path) in line


def test_an_unreadable_entry_is_replaced(cache, model, traced, monkeypatch, caplog):
    cache.get(model, 0.5)
    path, read = path_of(cache, model), Path.read_bytes

    def refuse(self):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert cache.get(model, 0.5).traced_now
    monkeypatch.undo()

    assert len(warnings_in(caplog)) == 1
    assert "Permission denied" in caplog.text
    assert not cache.get(model, 0.5).traced_now


def test_a_folder_in_the_place_of_an_entry_costs_time_and_one_line_and_is_left(
    cache, model, traced, caplog
):
    path = path_of(cache, model)
    path.mkdir(parents=True)
    (path / "notes").write_text("somebody's")

    assert cache.get(model, 0.5).traced_now
    assert (path / "notes").read_text() == "somebody's"
    (line,) = warnings_in(caplog)
    assert "cannot be kept" in line
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_costs_time_and_one_line(model, traced, tmp_path, caplog):
    (tmp_path / "occupied").write_text("a file, not a folder")
    cache = TemplateCache(tmp_path / "occupied")

    assert cache.get(model, 0.5).traced_now
    (line,) = warnings_in(caplog)
    assert "traced each time" in line


def test_an_unfinished_write_leaves_the_old_entry_and_no_rest(
    cache, model, traced, monkeypatch, caplog
):
    cache.get(model, 0.5)
    whole = path_of(cache, model).read_bytes()

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_room)
    cache.renew(model, 0.5)

    folder = path_of(cache, model).parent
    assert path_of(cache, model).read_bytes() == whole
    assert [path.name for path in folder.iterdir()] == [path_of(cache, model).name]
    assert "cannot be kept" in caplog.text


def test_rivals_write_the_same_entry_and_readers_never_see_half_of_it(cache, model, traced):
    cache.get(model, 0.5)
    problems, stop = [], threading.Event()

    def write():
        for _ in range(20):
            cache.renew(model, 0.5)

    def read():
        while not stop.is_set():
            if cache.get(model, 0.5).traced_now:
                problems.append("traced again")

    network = model.build(0.5)
    path = cache.path(model, 0.5, network)
    reader, writers = threading.Thread(target=read), [threading.Thread(target=write) for _ in "ab"]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()

    assert not problems
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def age(path, seconds):
    moment = path.stat().st_mtime - seconds
    os.utime(path, (moment, moment))


def test_beyond_its_limit_the_folder_loses_what_was_not_used_for_longest(model, traced, tmp_path):
    size = _size_of_one(model, tmp_path / "one")
    cache = TemplateCache(tmp_path / "templates", limit=3 * size)
    warm_templates(model, WIDTHS[:3], cache)
    for width, seconds in zip(WIDTHS[:3], (300, 200, 100), strict=True):
        age(path_of(cache, model, width), seconds)
    cache.get(model, WIDTHS[0])  # used now: the second is the oldest

    cache.get(model, WIDTHS[3])

    kept = [width for width in WIDTHS if path_of(cache, model, width).exists()]
    assert kept == [0.25, 0.75, 1.0]
    assert sum(path.stat().st_size for path in (tmp_path / "templates").iterdir()) <= 3 * size


def test_the_newest_entry_stays_even_where_it_alone_exceeds_the_limit(model, traced, tmp_path):
    cache = TemplateCache(tmp_path, limit=1)
    for width in WIDTHS:
        cache.get(model, width)
        assert [path.name for path in tmp_path.iterdir()] == [path_of(cache, model, width).name]


def test_files_of_others_are_neither_counted_nor_deleted(model, traced, tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"x" * 10_000)
    size = _size_of_one(model, tmp_path / "one")
    cache = TemplateCache(tmp_path, limit=2 * size)
    warm_templates(model, WIDTHS[:2], cache)

    assert (tmp_path / "notes.txt").exists()
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 2


def test_what_a_killed_process_left_goes_after_an_hour(cache, model, traced):
    cache.get(model, 0.5)
    folder = path_of(cache, model).parent
    old, fresh = (folder / f".toy{SUFFIX}.{name}.tmp" for name in ("aa", "bb"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    age(old, 7200)

    cache.get(model, 1.0)

    assert not old.exists()
    assert fresh.exists()


def _size_of_one(model, folder):
    cache = TemplateCache(folder)
    cache.get(model, 0.5)
    return path_of(cache, model).stat().st_size
