"""The generated market and its weather: seeded, spread as the real one, and moving as the real one did."""

import itertools
import math
import statistics
import time
from collections import Counter, defaultdict

import pytest

from dumont.sandbox.catalogue import Box
from dumont.sandbox.chance import cell
from dumont.sandbox.generate import generate
from dumont.sandbox.weather import PROFILES, Weather

_MONDAY = 1_780_272_000.0
_DAY = 86_400.0
_SEED = 1


@pytest.fixture(scope="module")
def weather() -> Weather:
    """The weather that `dumont up` has."""
    return Weather(_SEED, PROFILES["slack"])


@pytest.fixture(scope="module")
def boxes(weather: Weather) -> list[Box]:
    """Its computers."""
    return generate(_SEED, 300, weather.presence)


def _shown(weather: Weather, boxes: list[Box], at: float) -> dict[tuple[int, int], int]:
    """Return the number of each listing by machine and number of GPUs."""
    return {(box.id, len(box.slices()[column])): number for box in boxes for column, number in weather.shown(box, at)}


def test_the_catalogue_is_seeded_cheap_and_spread(weather: Weather, boxes: list[Box]) -> None:
    """The same seed makes the same computers in little time; models, prices, places and quality are spread."""
    begun = time.process_time()
    again = generate(_SEED, 300, Weather(_SEED, PROFILES["slack"]).presence)
    assert time.process_time() - begun < 5
    assert again == boxes and generate(2, 300, weather.presence) != boxes
    assert len({box.id for box in boxes}) == len(boxes)
    assert len({box.model.name for box in boxes}) > 35 and len({box.country for box in boxes}) > 25
    sizes = Counter(box.gpus for box in boxes)
    assert set(sizes) == {1, 2, 4, 8} and all(count > 40 for count in sizes.values())
    for share in (
        sum(box.verified for box in boxes) / len(boxes) - 0.75,
        sum(box.reliability > 0.995 for box in boxes) / len(boxes) - 0.40,
        sum(box.down >= 1000 for box in boxes) / len(boxes) - 0.40,
    ):
        assert abs(share) < 0.08
    assert 0.05 < sum(box.datacenter for box in boxes) / len(boxes) < 0.30
    prices = sorted(box.gpu_hour / 1e9 for box in boxes if box.model.name == "RTX 4090")
    assert 0.28 < statistics.median(prices) < 0.38 and prices[0] < 0.29 and prices[-1] > 0.38
    assert min(box.gpu_hour for box in boxes) < 50_000_000 and max(box.gpu_hour for box in boxes) > 2_500_000_000
    assert {None, ""} & {box.place for box in boxes}, "some hosts do not say where they are"


def test_still_weather_never_moves() -> None:
    """Without weather every slice is listed at its own price, now and in a year."""
    still = Weather(_SEED, PROFILES["still"])
    boxes = generate(_SEED, 100, still.presence)
    assert 100 <= sum(len(box.slices()) for box in boxes) < 116
    for at in (_MONDAY, _MONDAY + 365 * _DAY):
        for box in boxes:
            assert len(still.shown(box, at)) == len(box.slices())
            assert still.gpu_hour(box, at) == box.gpu_hour and still.rival_bid(box, box.slices()[0], at) == 0


def test_it_depends_on_seed_and_time_alone(boxes: list[Box]) -> None:
    """Whoever asks in another order, or asks again, gets the same market."""
    moments = [_MONDAY + hour * 5000.0 for hour in range(6)]
    one, other = Weather(_SEED, PROFILES["slack"]), Weather(_SEED, PROFILES["slack"])
    forward = [_shown(one, boxes[:150], at) for at in moments]
    backward = [_shown(other, boxes[:150], at) for at in reversed(moments)]
    assert forward == backward[::-1]
    assert _shown(Weather(7, PROFILES["slack"]), boxes[:150], _MONDAY) != forward[0]


def test_a_week_moves_as_the_real_market_did(weather: Weather, boxes: list[Box]) -> None:
    """Cheapest price by model and day: the four facts of the summer of 2026, within their bands.

    Source: the real market's cheapest prices of 39 models over 54 days: unchanged from day to day 35 % of the time,
    median change 3.6 %, lag-1 autocorrelation -0.41, deviation of the log level 12 %.
    """
    floors: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    counts = []
    for day in range(8):
        at = _MONDAY + day * _DAY + 12 * 3600
        counts.append(sum(len(weather.shown(box, at)) for box in boxes))
        for box in boxes:
            if weather.shown(box, at):
                prices = floors[box.model.name, box.model.ram_mb]
                prices[day] = min(prices.get(day, math.inf), math.log(weather.gpu_hour(box, at)))
    assert min(counts) >= 240 and max(counts) <= 360, "about 300 offers"

    whole = [[prices[day] for day in range(8)] for prices in floors.values() if len(prices) == 8]
    assert len(whole) >= 30
    steps = [[b - a for a, b in itertools.pairwise(levels)] for levels in whole]
    changes = sorted(abs(step) for series in steps for step in series)
    assert 0.25 <= sum(change == 0 for change in changes) / len(changes) <= 0.45
    assert 0.02 <= statistics.median(changes) <= 0.06
    pairs = [(a, b) for series in steps for a, b in itertools.pairwise(series)]
    lag = sum(a * b for a, b in pairs) / math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
    assert -0.55 <= lag <= -0.25
    assert 0.08 <= statistics.median(statistics.pstdev(levels) for levels in whole) <= 0.16


def test_listings_come_and_go_under_new_numbers(weather: Weather, boxes: list[Box]) -> None:
    """Within a day most machines are listed now and then, some nearly always, and many under several numbers."""
    some = boxes[::2]
    samples = [_shown(weather, some, _MONDAY + hour * 3600) for hour in range(24)]
    seen = Counter(offer for sample in samples for offer in sample)
    numbers = defaultdict(set)
    for sample in samples:
        for offer, number in sample.items():
            numbers[offer].add(number)
    shares = [count / 24 for count in seen.values()]
    assert 0.10 < statistics.median(shares) < 0.45
    assert 0.02 < sum(share > 0.9 for share in shares) / len(shares) < 0.15
    assert 0.25 < sum(len(found) > 1 for found in numbers.values()) / len(numbers) < 0.75


def test_busy_weather_leaves_little_and_asks_more(weather: Weather, boxes: list[Box]) -> None:
    """The same computers on a busy day: far fewer offers, higher prices."""
    busy = Weather(_SEED, PROFILES["busy"])
    assert len(_shown(busy, boxes, _MONDAY)) < 0.4 * len(_shown(weather, boxes, _MONDAY))
    ratio = statistics.median(busy.gpu_hour(box, _MONDAY) / weather.gpu_hour(box, _MONDAY) for box in boxes[:40])
    assert 1.15 < ratio < 1.35


def test_bids_survive_for_hours_or_days(weather: Weather, boxes: list[Box]) -> None:
    """At 5 % above the least, a bid lives some hours in the median; at the on-demand price, days."""

    def life(box: Box, bid: float) -> float:
        gpus, at = box.slices()[-1], _MONDAY
        while at < _MONDAY + 20 * _DAY and weather.rival_bid(box, gpus, at) < bid:
            at = weather.next_change(box, gpus, at)
        return (at - _MONDAY) / 3600

    cheap = [box for box in boxes[:70] if box.bid_share < 0.8 and not weather.rival_bid(box, box.slices()[-1], _MONDAY)]
    low = statistics.median(life(box, box.gpu_hour * box.bid_share * 1.05) for box in cheap)
    high = statistics.median(life(box, box.gpu_hour) for box in cheap)
    assert 4 < low < 14 and high > 48


def test_moments_are_a_poisson_process() -> None:
    """Waits have the mean and the spread of exponential ones, and cells join without gaps."""
    at, waits = 0.0, []
    for _ in range(3000):
        now = cell(99, 100.0, at)
        assert now.start <= at < now.end
        waits.append(now.end - now.start)
        at = now.end
    assert statistics.mean(waits[1:]) == pytest.approx(100, rel=0.06)
    assert statistics.stdev(waits[1:]) == pytest.approx(100, rel=0.10)
