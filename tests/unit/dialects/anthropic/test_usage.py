"""Usage on the Messages wire: disjoint already, but told in pieces."""

from typing import Any

import pytest

from routerx.dialects.anthropic.usage import UsageReader, usage_object
from routerx.domain.usage import Usage


def read(*reports: Any) -> tuple[Usage | None, bool]:
    reader = UsageReader()
    for report in reports:
        reader.read(report)
    return reader.usage, reader.anomaly


def test_every_bucket_has_its_count() -> None:
    report = {
        "input_tokens": 1,
        "cache_read_input_tokens": 2,
        "cache_creation_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
        "output_tokens": 11,
        "output_tokens_details": {"thinking_tokens": 5},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 9},
        "service_tier": "standard",
    }
    expected = Usage(
        in_fresh=1,
        in_cache_read=2,
        in_cache_write_5m=3,
        in_cache_write_1h=4,
        out_text=6,
        out_reasoning=5,
        searches=2,
    )
    assert read(report) == (expected, False)


def test_cache_writes_that_are_not_split_are_of_the_shorter_kind() -> None:
    assert read({"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 9}) == (
        Usage(in_cache_write_5m=9),
        False,
    )


def test_a_split_that_covers_a_part_leaves_the_rest_to_the_shorter_kind() -> None:
    """With the vendor's own tools it covers the first round only."""
    start = {
        "input_tokens": 1,
        "output_tokens": 1,
        "cache_creation_input_tokens": 5,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 5},
    }
    assert read(start, {"cache_creation_input_tokens": 8, "output_tokens": 2}) == (
        Usage(in_fresh=1, in_cache_write_5m=3, in_cache_write_1h=5, out_text=2),
        False,
    )


def test_a_split_larger_than_the_whole_is_cut_to_it_and_flagged() -> None:
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 9}
    report = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 5, "cache_creation": split}
    assert read(report) == (Usage(in_fresh=1, in_cache_write_1h=5, out_text=1), True)


def test_a_split_alone_is_the_whole() -> None:
    split = {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}
    assert read({"input_tokens": 1, "output_tokens": 1, "cache_creation": split}) == (
        Usage(in_fresh=1, in_cache_write_5m=2, in_cache_write_1h=3, out_text=1),
        False,
    )


def test_reports_are_cumulative_and_the_last_word_on_each_count_stands() -> None:
    start = {"input_tokens": 10, "cache_read_input_tokens": 4, "output_tokens": 1}
    later = {"input_tokens": 12, "cache_read_input_tokens": None, "output_tokens": 20}
    assert read(start, None, later, {}) == (Usage(in_fresh=12, in_cache_read=4, out_text=20), False)


def test_rounds_that_another_model_took_are_not_in_the_totals_and_stay_out() -> None:
    report = {"input_tokens": 1, "output_tokens": 2, "iterations": [{"input_tokens": 100, "output_tokens": 100}]}
    assert read(report) == (Usage(in_fresh=1, out_text=2), False)


@pytest.mark.parametrize("report", [None, {}, {"service_tier": "standard"}, {"input_tokens": None}])
def test_no_count_is_no_report(report: Any) -> None:
    assert read(report) == (None, False)


def test_zeros_are_a_report() -> None:
    assert read({"input_tokens": 0, "output_tokens": 0}) == (Usage(), False)


@pytest.mark.parametrize(
    "report",
    [
        7,
        [],
        {"input_tokens": 1, "output_tokens": -1},
        {"input_tokens": "1", "output_tokens": 1},
        {"input_tokens": True, "output_tokens": 1},
        {"input_tokens": 1 << 41, "output_tokens": 1},
        {"input_tokens": 1, "output_tokens": 1, "cache_creation": 3},
        {"input_tokens": 1, "output_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 0.5}},
    ],
)
def test_what_cannot_be_a_number_of_tokens_leaves_no_usage(report: Any) -> None:
    good = {"input_tokens": 1, "output_tokens": 1}
    assert read(report) == (None, True)
    assert read(good, report) == (None, True)
    assert read(good, report, {}) == (None, True)
    assert read(report, good) == (Usage(in_fresh=1, out_text=1), True)


def test_thoughts_are_never_more_than_the_output() -> None:
    report = {"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"thinking_tokens": 5}}
    assert read(report) == (Usage(in_fresh=1, out_reasoning=2), False)


def test_what_other_wires_tell_apart_is_added_up() -> None:
    usage = Usage(in_fresh=1, in_audio=2, in_image=3, out_text=4, out_reasoning=5, out_audio=6, searches=7)
    told = usage_object(usage)
    assert (told["input_tokens"], told["output_tokens"]) == (6, 15)
    assert told["output_tokens_details"] == {"thinking_tokens": 5}
    assert told["server_tool_use"] == {"web_search_requests": 7, "web_fetch_requests": 0}
