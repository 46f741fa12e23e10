"""Device budgets: how they are written, what they let through, how they are refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.budget import (
    LATENCY_UNITS,
    SIZE_UNITS,
    Budget,
    BudgetError,
    format_bytes,
    format_seconds,
    parse_budget,
)

SPACE = st.sampled_from(["", " ", "  "])
NUMBER = st.integers(1, 99_999) | st.sampled_from(["0.5", ".5", "20.", "1e3", "2.5E-1"])
SIGN = st.sampled_from(["<=", "≤"])


@st.composite
def limits(draw, quantity, units):
    """Return a limit as people write it, with its value."""
    unit, number = draw(st.sampled_from(sorted(units))), draw(NUMBER)
    word = draw(st.sampled_from([quantity, quantity.upper(), quantity.title()]))
    parts = [draw(SPACE), word, draw(SPACE), draw(SIGN), draw(SPACE), str(number), draw(SPACE)]
    return "".join([*parts, unit, draw(SPACE)]), float(number) * units[unit]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency<=20ms,size<=2MB", Budget(0.02, 2e6)),
        ("size <= 2 MiB , latency <= 0.5 s", Budget(0.5, 2 * 1024**2)),
        ("latency<=250us", Budget(latency_s=250e-6)),
        ("latency<=250µs", Budget(latency_s=250e-6)),
        ("size<=64KiB", Budget(size_bytes=65536)),
        ("size<=64kB", Budget(size_bytes=64000)),
        ("size<=1GB", Budget(size_bytes=1e9)),
    ],
)
def test_a_budget_is_read_as_it_is_written(text, expected):
    assert parse_budget(text) == expected


@given(limits("latency", LATENCY_UNITS), limits("size", SIZE_UNITS), st.booleans())
def test_order_spaces_and_units_do_not_matter(latency, size, latency_first):
    texts = [latency[0], size[0]] if latency_first else [size[0], latency[0]]
    assert parse_budget(",".join(texts)) == Budget(latency[1], size[1])
    assert parse_budget(latency[0]) == Budget(latency_s=latency[1])
    assert parse_budget(size[0]) == Budget(size_bytes=size[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no limit"),
        ("fast", "'fast' is no limit"),
        ("latency<=20ms,", "'' is no limit"),
        ("latency<=20", "a number without unit; units of latency: us, ms, s"),
        ("latency<=20MB", "unit 'MB'; units of latency: us, ms, s"),
        ("size<=2mb", "unit 'mb'; units of size: B, kB"),
        ("size<=2ms", "unit 'ms'"),
        ("latency<20ms", "only <= makes a limit"),
        ("latency>=20ms", "only <= makes a limit"),
        ("latency=20ms", "only <= makes a limit"),
        ("latency20ms", "only <= makes a limit"),
        ("memory<=2MB", "'memory' has no limit; a budget limits latency and size"),
        ("latency<=1ms,latency<=2ms", "limits latency twice"),
        ("latency<=0ms", "nothing keeps this limit"),
        ("latency<=-1ms", "only <= makes a limit"),
        ("latency<=infms", "is no limit"),
        ("latency<=nanms", "is no limit"),
        ("latency<=1e999s", "nothing keeps this limit"),
        ("latency<=1,5ms", "without unit"),
    ],
)
def test_what_is_no_budget_is_refused_with_what_it_should_be(text, said):
    with pytest.raises(BudgetError) as refused:
        parse_budget(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=40))
def test_no_text_does_anything_but_parse_or_be_refused(text):
    try:
        budget = parse_budget(text)
    except BudgetError:
        return
    assert budget.limits_anything


AMOUNT = st.floats(1e-9, 1e12)
BUDGETS = st.builds(Budget, AMOUNT | st.just(math.inf), AMOUNT | st.just(math.inf))


@given(BUDGETS, AMOUNT, AMOUNT)
def test_what_fits_has_no_complaint_and_the_rest_says_what_is_too_much(budget, latency, size):
    fits = budget.fits(latency, size)
    assert fits == (budget.complaint(latency, size) == "")
    if budget.excess(latency, size) < 1:
        assert fits
    if fits:
        assert budget.excess(latency, size) <= 1


@given(AMOUNT, AMOUNT)
def test_a_value_equal_to_its_limit_fits(latency, size):
    assert Budget(latency, size).fits(latency, size)
    assert Budget().fits(latency, size)
    assert not Budget().limits_anything


def test_a_complaint_names_what_is_too_much():
    budget = Budget(0.02, 2e6)
    assert budget.complaint(0.0231, 1e6) == "23.1 ms > 20 ms"
    assert budget.complaint(0.01, 2_500_000) == "2.5 MB > 2 MB"
    assert budget.complaint(0.03, 3e6) == "30 ms > 20 ms, 3 MB > 2 MB"


@given(st.floats(1e-6, 1e3), st.floats(1, 1e11))
def test_a_budget_in_words_reads_back_within_its_three_digits(latency, size):
    read = parse_budget(str(Budget(latency, size)))
    assert read.latency_s == pytest.approx(latency, rel=6e-3)
    assert read.size_bytes == pytest.approx(size, rel=6e-3)


def test_figures_have_three_digits_and_a_unit():
    assert [format_seconds(s) for s in (2.3e-5, 1.2345e-3, 0.02, 0.15, 2.0)] == [
        "23 us",
        "1.23 ms",
        "20 ms",
        "150 ms",
        "2 s",
    ]
    assert [format_bytes(s) for s in (0, 999, 45_123, 2_000_000, 1.5e9)] == [
        "0 B",
        "999 B",
        "45.1 kB",
        "2 MB",
        "1.5 GB",
    ]
