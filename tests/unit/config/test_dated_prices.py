"""Prices with dates and with service tiers, from the file to the snapshot."""

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.config.repricing import next_change_ns, priced_at, repriced
from routerx.config.schema import json_schema
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.config.watch import ConfigWatcher
from routerx.domain.model import DatedPrice, Endpoint, following_price, in_force
from routerx.domain.pricing import PriceCard, Tier
from tests.support.clock import ManualClock
from tests.unit.config.config_kit import CHAT_PRICE, TWO_LINES, Folder

DAY_NS = 86_400 * 10**9
NOW_NS = 1_796_083_200 * 10**9  # 2026-12-01T00:00:00Z
OWN = "providers: {lab: {dialect: openai, base_url: 'http://127.0.0.1:9', keys: [k]}}\n"


def load(folder: Folder, text: str, now_ns: int = NOW_NS) -> Snapshot:
    return msgspec.structs.replace(folder.loader(text), clock=ManualClock(now_ns)).load(1)


def problems_at(folder: Folder, text: str) -> tuple[str, ...]:
    return folder.problems(text, clock=ManualClock(NOW_NS))


def model(*prices: str) -> str:
    return OWN + "models: {own: {endpoints: [{provider: lab, price: [" + ", ".join(prices) + "]}]}}\n"


def card(into: int) -> PriceCard:
    return PriceCard(into * 1_000_000, 0)


# --- laws ----------------------------------------------------------------------------------------------------------

moments = st.integers(1, 4_000_000_000 * 10**9)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[DatedPrice, ...]:
    """Cards as the compiler takes them: sorted, each moment once, the first with or without one."""
    dates: list[int | None] = [*sorted(draw(st.sets(moments, min_size=1, max_size=6)))]
    if draw(st.booleans()):
        dates[0] = None
    return tuple(DatedPrice(card(place), from_ns) for place, from_ns in enumerate(dates))


@given(schedules(), moments)
def test_at_any_moment_exactly_one_card_is_in_force(prices: tuple[DatedPrice, ...], at_ns: int) -> None:
    begun = [one for one in prices if one.from_ns is None or one.from_ns <= at_ns]

    assert in_force(prices, at_ns) is (begun[-1] if begun else prices[0])
    coming = following_price(prices, at_ns)
    assert coming is next((one for one in prices[1:] if one.from_ns is not None and one.from_ns > at_ns), None)


@given(schedules())
def test_going_from_change_to_change_meets_every_card_once(prices: tuple[DatedPrice, ...]) -> None:
    endpoint = Endpoint("p/m", "p", "m", "m", None, frozenset(), prices=prices)
    met, now_ns = [], 0
    while True:
        endpoint = priced_at(endpoint, now_ns)
        met.append(endpoint.price)
        if endpoint.next_price is None or endpoint.next_price.from_ns is None:
            break
        before_ns, now_ns = now_ns, endpoint.next_price.from_ns
        assert now_ns > before_ns
    assert met == [one.card for one in prices]


@given(st.sets(st.integers(0, 3_000), min_size=1, max_size=5), st.integers(0, 3_000))
def test_the_file_s_dates_say_which_card_is_in_force(
    tmp_path_factory: pytest.TempPathFactory, days: set[int], today: int
) -> None:
    dates = sorted(days)
    rows = [
        f"{{from: {datetime.fromtimestamp(day * 86_400, UTC):%Y-%m-%d}, input: {day}, output: 0}}" for day in dates[1:]
    ]
    text = model(f"{{input: {dates[0]}, output: 0}}", *rows)
    snapshot = load(Folder(tmp_path_factory.mktemp("dated")), text, today * DAY_NS)

    begun = [day for day in dates[1:] if day <= today]
    coming = [day for day in dates[1:] if day > today]
    (endpoint,) = snapshot.models["own"].endpoints
    assert endpoint.price == card(begun[-1] if begun else dates[0])
    assert snapshot.prices_until_ns == (coming[0] * DAY_NS if coming else None)


# --- the moment ------------------------------------------------------------------------------------------------------


async def nobody_follows(old: Snapshot, new: Snapshot) -> None:
    """What else there is of a process."""


async def test_a_price_changes_on_its_moment_between_two_looks_at_the_files(folder: Folder) -> None:
    clock = ManualClock(NOW_NS - 2 * 10**8)
    text = model("{input: 1, output: 0}", "{from: 2026-12-01, input: 2, output: 0}")
    loader = msgspec.structs.replace(folder.loader(text), clock=clock)
    holder = SnapshotHolder(loader.load(1))
    watcher = ConfigWatcher(holder, loader.load, clock, nobody_follows)
    polling = asyncio.create_task(watcher._poll())
    await clock.run(0.19)
    assert holder.current.generation == 1
    await clock.run(0.01)
    assert holder.current.models["own"].endpoints[0].price == card(2)
    assert (watcher.status.generation, watcher.status.applied_at_ns) == (2, NOW_NS)
    polling.cancel()


# --- the file --------------------------------------------------------------------------------------------------------


def test_one_card_may_stand_for_itself_as_before(folder: Folder) -> None:
    snapshot = load(folder, OWN + "models: {own: {endpoints: [{provider: lab, price: {input: 1, output: 0}}]}}\n")

    (endpoint,) = snapshot.models["own"].endpoints
    assert (endpoint.price, endpoint.prices, endpoint.next_price) == (card(1), (), None)
    assert snapshot.prices_until_ns is None


def test_an_instant_with_its_offset_is_taken_for_what_it_is(folder: Folder) -> None:
    text = model("{input: 1, output: 0}", "{from: 2026-12-01T08:00:00+02:00, input: 2, output: 0}")

    assert load(folder, text).prices_until_ns == NOW_NS + 6 * 3_600 * 10**9


def test_until_its_date_a_price_leaves_that_of_the_catalogue(folder: Folder) -> None:
    text = TWO_LINES + "pricing: {gpt-4o: {from: 2026-12-02, input: 1, output: 0}}\n"
    (before,) = load(folder, text).models["gpt-4o"].endpoints
    (after,) = load(folder, text, NOW_NS + DAY_NS).models["gpt-4o"].endpoints

    assert before.price == CHAT_PRICE
    assert before.price_origin is not None
    assert before.price_origin.source == "https://openai.test/prices"
    assert before.next_price is not None
    assert before.next_price.from_ns == NOW_NS + DAY_NS
    assert after.price == card(1)
    assert after.price_origin is not None
    assert after.price_origin.source == "configuration"


def test_until_its_date_pricing_leaves_the_cards_of_the_model(folder: Folder) -> None:
    text = model("{input: 1, output: 0}", "{from: 2026-12-05, input: 5, output: 0}")
    text += "pricing: {own: [{from: 2026-12-03, input: 3, output: 0}, {from: 2026-12-09, input: 9, output: 0}]}\n"
    (endpoint,) = load(folder, text).models["own"].endpoints

    assert [one.card for one in endpoint.prices] == [card(1), card(3), card(9)]


def test_an_alias_and_a_path_change_with_their_model(folder: Folder) -> None:
    text = model("{input: 1, output: 0}", "{from: 2026-12-02, input: 2, output: 0}").replace(
        "{own:", "{short: own, own:"
    )
    after, changed = repriced(load(folder, text), NOW_NS + DAY_NS)

    assert changed == ("lab/own",)
    found = (after.models["own"], after.models["short"], after.endpoints["lab/own"])
    assert [one.endpoints[0].price for one in found] == [card(2)] * 3
    assert (after.generation, after.prices_until_ns) == (2, None)


def test_what_changes_by_the_clock_is_what_a_load_would_have_made(folder: Folder) -> None:
    text = model(
        "{input: 1, output: 0}", "{from: 2026-12-02, input: 2, output: 0}", "{from: 2026-12-03, input: 3, output: 0}"
    )
    for now_ns in (NOW_NS, NOW_NS + DAY_NS, NOW_NS + 2 * DAY_NS):
        changed, _ = repriced(load(folder, text), now_ns)
        assert msgspec.structs.replace(changed, generation=1) == load(folder, text, now_ns)


def test_models_whose_prices_stay_are_not_touched(folder: Folder) -> None:
    before = load(folder, TWO_LINES + "pricing: {embed-small: {from: 2026-12-02, input: 1}}\n")
    after, _ = repriced(before, NOW_NS + DAY_NS)

    assert after.models["gpt-4o"] is before.models["gpt-4o"]
    assert after.models["embed-small"] is not before.models["embed-small"]
    assert next_change_ns((before.models["gpt-4o"],)) is None


@pytest.mark.parametrize(
    ("prices", "problem"),
    [
        (
            ("{input: 1, output: 0}", "{input: 2, output: 0}"),
            "price[1]: needs from: only the first of several cards may be without",
        ),
        (
            (
                "{input: 1, output: 0}",
                "{from: 2026-12-02, input: 2, output: 0}",
                "{from: 2026-12-02, input: 3, output: 0}",
            ),
            "price[2].from: must be later than that of the card before it ('2026-12-02')",
        ),
        (
            ("{from: 2026-11-30, input: 1, output: 0}", "{from: 2026-11-02, input: 2, output: 0}"),
            "price[1].from: must be later than that of the card before it ('2026-11-02')",
        ),
        (("{input: 1, output: 0}", "{from: soon, input: 2, output: 0}"), "price[1].from: is not a date; write it like"),
        (
            ("{input: 1, output: 0}", "{form: 2026-12-02, input: 2, output: 0}"),
            "price[1].form: unknown key; did you mean 'from'?",
        ),
        (("{input: 1}",), "price[0]: has no price for output; write output: 0 if it is free"),
        ((), "price: has no price card"),
        (
            ("{from: 2026-12-02, input: 1, output: 0}",),
            "price[0].from: is to come, and nothing says what it costs until then; add a card before it ('2026-12-02')",
        ),
    ],
)
def test_what_is_wrong_with_a_list_of_prices_is_told_with_its_place(
    folder: Folder, prices: tuple[str, ...], problem: str
) -> None:
    (told,) = problems_at(folder, model(*prices))

    assert told.startswith(f"routerx.yaml:2: models.own.endpoints[0].{problem}")


def test_the_line_of_a_wrong_date_is_named(folder: Folder) -> None:
    text = OWN + "pricing:\n  lab/x:\n    - {input: 1, output: 0}\n    - input: 2\n      output: 0\n      from: never\n"

    (told,) = problems_at(folder, text)
    assert told.startswith("routerx.yaml:7: pricing.lab/x[1].from: is not a date")


def test_a_list_that_is_no_list_of_cards_is_refused(folder: Folder) -> None:
    (told,) = problems_at(folder, OWN + "pricing: {lab/x: [3]}\n")

    assert told == "routerx.yaml:2: pricing.lab/x[0]: must be a mapping of keys to values"


# --- service tiers ---------------------------------------------------------------------------------------------------


def priced(folder: Folder, price: str) -> PriceCard:
    found = load(folder, OWN + "pricing: {lab/x: {" + price + "}}\n").endpoints["lab/x"].endpoints[0].price
    assert found is not None
    return found


def test_a_tier_states_what_differs(folder: Folder) -> None:
    price = priced(folder, "input: 2, output: 8, cached_input: 1, search: $0.01, tiers: {flex: {input: 1, output: 4}}")

    plain = PriceCard(2_000_000, 8_000_000, cache_read_pico=1_000_000, search_nano=10_000_000)
    flex = PriceCard(1_000_000, 4_000_000, cache_read_pico=1_000_000, search_nano=10_000_000)
    assert price == msgspec.structs.replace(plain, tiers=(Tier("flex", flex),))


def test_the_long_prices_of_a_tier_take_the_place_of_all_of_the_card_s(folder: Folder) -> None:
    long = "long: {above: 100, input: 4, output: 16}"
    price = priced(
        folder, f"input: 2, output: 8, {long}, tiers: {{a: {{input: 1}}, b: {{long: {{above: 50, input: 3}}}}}}"
    )
    kept, own = price.of_tier("a"), price.of_tier("b")

    assert kept is not None
    assert (kept.long_above_tokens, kept.long_input_pico, kept.long_output_pico) == (100, 4_000_000, 16_000_000)
    assert own is not None
    assert (own.long_above_tokens, own.long_input_pico, own.long_output_pico) == (50, 3_000_000, None)


def test_a_tier_counts_tokens_as_its_card_does(folder: Folder) -> None:
    flex = priced(folder, "per: 1k, input: 2, output: 8, tiers: {flex: {input: 1}}").of_tier("flex")

    assert flex == PriceCard(1_000_000_000, 8_000_000_000)


@pytest.mark.parametrize("nothing", ["{}", ""])
def test_a_tier_that_states_nothing_is_priced_as_its_card(folder: Folder, nothing: str) -> None:
    price = priced(folder, f"input: 2, output: 8, tiers: {{provisioned: {nothing}}}")

    assert price.of_tier("provisioned") == PriceCard(2_000_000, 8_000_000)


@pytest.mark.parametrize(
    ("tiers", "problem"),
    [
        (
            "{default: {input: 1}}",
            ".default: is the tier whose prices stand outside of `tiers`; name others, like flex or priority",
        ),
        ("{auto: {input: 1}}", ".auto: is no tier of its own; name others, like flex or priority"),
        ("{Flex: {input: 1}}", ".Flex: is not a tier; use small letters, digits, '_' and '-', at most 32"),
        ("{flex: {inputs: 1}}", ".flex.inputs: unknown key; did you mean 'input'?"),
        ("{flex: {input: 0.0000001}}", ".flex.input: has more than 6 decimals per 1M tokens; prices are exact to that"),
        ("{flex: {tiers: {}}}", ".flex.tiers: unknown key"),
    ],
)
def test_what_is_wrong_with_a_tier_is_told(folder: Folder, tiers: str, problem: str) -> None:
    (told,) = problems_at(folder, OWN + "pricing: {lab/x: {input: 1, output: 1, tiers: " + tiers + "}}\n")

    assert told.startswith(f"routerx.yaml:2: pricing.lab/x.tiers{problem}")


# --- the schema for editors ------------------------------------------------------------------------------------------


def test_the_schema_lets_one_card_stand_or_a_list_of_them() -> None:
    schema = json_schema()
    card_, cards = schema["properties"]["pricing"]["additionalProperties"]["oneOf"]

    assert card_ == {"$ref": "#/$defs/PriceBlock"}
    assert cards == {"type": "array", "items": card_}
    assert {"from", "tiers", "per"} <= schema["$defs"]["PriceBlock"]["properties"].keys()
    assert not {"from", "tiers", "per"} & schema["$defs"]["TierPriceBlock"]["properties"].keys()
    assert all(
        one["additionalProperties"] is False
        for one in (schema["$defs"]["PriceBlock"], schema["$defs"]["TierPriceBlock"])
    )
