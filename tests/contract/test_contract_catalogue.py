"""The sandbox answers the catalogue as a real server does, and the player leaves nothing behind."""

from tests.contract.catalogue import CATALOGUE
from tests.contract.player import Exchange, Player
from tests.support.api import Api


def test_the_sandbox_answers_every_exchange_as_a_real_server(shared_sandbox):
    api = Api(shared_sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    before = counts(api)
    with Player(api.endpoint) as player:
        problems = {exchange.name: found for exchange in CATALOGUE if (found := player.play(exchange))}
    assert problems == {}
    assert counts(api) == before, "everything that the player made is deleted"


def test_an_answer_that_differs_is_described(shared_sandbox):
    with Player(shared_sandbox.environment()["KF_PIPELINES_ENDPOINT"]) as player:
        healthz = "/apis/v2beta1/healthz"
        assert "expected status 404, got 200" in player.play(Exchange("x", "GET", healthz, 404))[0]
        assert "expected 'other'" in player.play(Exchange("x", "GET", healthz, equals={"tag_name": "other"}))[0]
        assert "expected the fields" in player.play(Exchange("x", "GET", healthz, fields=("tag_name",)))[0]


def test_every_exchange_has_its_own_name():
    names = [exchange.name for exchange in CATALOGUE]
    assert len(names) == len(set(names)) and len(names) >= 90


def counts(api: Api) -> list[int]:
    return [
        api.call("GET", f"/{kind}", params={"page_size": 1}).get("total_size", 0)
        for kind in ("experiments", "pipelines", "runs", "recurringruns")
    ]
