"""Following an operation over a wire that breaks."""

import io
import threading
import time

import pytest
from tests.client.server import Api, serving, until
from tests.support.product import free_port

from dumont.client import ApiProblem, ApiUnreachable, Client, Event
from dumont.client.sse import read_events


def _hibernate(api: Api, client: Client) -> str:
    operation_id = client.hibernate(api.add_instance(), "keep").operation_id
    assert operation_id is not None
    return operation_id


def test_every_event_comes_once_and_done_comes_last(api: Api, client: Client) -> None:
    events = list(client.watch_operation(_hibernate(api, client)))
    assert [event.name for event in events] == ["step", "step", "step", "progress", "progress", "step", "done"]
    ended = events[-1].operation
    assert ended is not None and ended.status == "succeeded" and ended.ended


def test_a_stream_cut_in_the_middle_is_resumed_where_it_broke(api: Api, client: Client) -> None:
    api.cuts = [2, 3]
    number = _hibernate(api, client)

    events = list(client.watch_operation(number))

    assert [event.id for event in events] == ["1", "2", "3", "4", "5", "6", "100"]
    asked = api.asked("GET", f"/api/v1/operations/{number}/events")
    assert [request.headers.get("last-event-id") for request in asked] == [None, "2", "5"]


def test_streams_that_stay_silent_give_way_to_asking(api: Api, client: Client) -> None:
    api.cuts = [0] * 20
    number = _hibernate(api, client)
    events = list(client.watch_operation(number))
    assert [event.name for event in events][-1] == "done"
    assert api.work[number].polls > 2


def test_a_server_without_streams_is_asked_again_and_again(api: Api, client: Client) -> None:
    api.streams = False
    number = _hibernate(api, client)
    events = list(client.watch_operation(number))
    assert {event.name for event in events[:-1]} == {"progress"}
    assert events[-1].name == "done"
    assert [event.name for event in events].count("done") == 1


def test_a_server_that_restarts_meanwhile_is_found_again() -> None:
    api = Api()
    api.tokens.add("t")
    api.hold = threading.Event()
    api.cuts = [3]
    api.port = free_port()  # which no outgoing connection takes while nobody listens
    events: list[Event] = []
    with serving(api):
        client = Client(api.url, "t", timeout=60, patience=1)
        number = _hibernate(api, client)
        watch = client.watch_operation(number, patience=60)
        events.extend(next(watch) for _ in range(3))
    follower = threading.Thread(target=lambda: events.extend(watch))
    follower.start()
    time.sleep(0.5)
    assert len(events) == 3
    with serving(api):
        api.hold.set()
        follower.join(60)
    assert not follower.is_alive()
    assert [event.id for event in events] == ["1", "2", "3", "4", "5", "6", "100"]


def test_a_server_that_stays_away_is_given_up() -> None:
    api = Api()
    api.tokens.add("t")
    with serving(api):
        client = Client(api.url, "t", timeout=2, patience=0.3)
        number = _hibernate(api, client)
    with pytest.raises(ApiUnreachable):
        list(client.watch_operation(number, patience=0.5))


def test_an_operation_that_does_not_exist_is_told(api: Api, client: Client) -> None:
    api.streams = False
    with pytest.raises(ApiProblem) as told:
        list(client.watch_operation("op_01JQ8Z7C5T2V9K4M6N8P0R2S4T"))
    assert told.value.code == "operation-not-found"


def test_waiting_sees_the_news_as_it_comes(api: Api, client: Client) -> None:
    api.hold = threading.Event()
    number = _hibernate(api, client)
    events: list[Event] = []
    follower = threading.Thread(target=lambda: events.extend(client.watch_operation(number)))
    follower.start()
    until(lambda: len(events) == 6 or not follower.is_alive())
    assert follower.is_alive()
    api.hold.set()
    follower.join(60)
    assert events[-1].name == "done"


def test_the_event_format_is_read_as_it_is_specified() -> None:
    text = (
        ': comment\n\nid: 1\nevent: step\ndata: {\ndata: "a": 1}\n\n'
        'data:{"b": 2}\r\n\r\nevent: progress\ndata: not json\n\nid: 9\nevent: step\ndata: {"lost": 1}\n'
    )
    found = list(read_events(io.BytesIO(text.encode())))
    assert found == [Event("step", {"a": 1}, "1"), Event("message", {"b": 2}, "1")]
