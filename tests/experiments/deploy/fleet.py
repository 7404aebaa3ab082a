"""The Flower engine with the network left out: messages go straight to the markets' services."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from experiments.deploy import server
from experiments.deploy.homes import Homes, prepare_homes
from experiments.deploy.market import open_service
from experiments.deploy.processes import HOME_VARIABLE
from experiments.deploy.server import RECORD, serve
from fedmm_secure.service.market_service import MarketService, run_directories
from fedmm_secure.storage.layout import CONFIG_FILE
from fedmm_secure.storage.run_directory import to_yaml
from tests.released import filled_once
from tests.session import FOLDER

TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


class Fleet:
    """Implements the part of Flower's ``Grid`` that the server uses."""

    def __init__(self, homes: Homes, max_runs: int = 1) -> None:
        self.homes, self.max_runs = homes, max_runs
        self.services: dict[str, MarketService] = {}
        self.faults = {}  # (market, step) or market: what to do instead of answering
        self.seen: list[tuple[str, dict, bytes]] = []
        self.replies: dict[str, Message] = {}
        for market in homes.markets:
            self.restart(market)

    def restart(self, market: str) -> MarketService:
        """A new process of a market: all that it knows is on disk."""
        self.services[market] = open_service(self.homes.market(market), max_runs=self.max_runs)
        return self.services[market]

    def get_node_ids(self) -> list[int]:
        return list(range(len(self.homes.markets)))

    def push_messages(self, messages) -> list[str]:
        """What is asked is answered at once; who does not answer in time is not waited for."""
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(number)
            market = self.homes.markets[message.metadata.dst_node_id]
            request = message.content[RECORD]["request"]
            fault = self.faults.get(market)
            answer = fault(self, market, request) if fault else self.services[market].answer(request)
            self.seen.append((market, json.loads(request), answer))
            if answer is None:
                continue  # no answer in time
            if isinstance(answer, Error):
                reply = Message(answer, reply_to=message)
            else:
                reply = Message(content=RecordDict({RECORD: ConfigRecord({"reply": answer})}), reply_to=message)
            self.replies[str(number)] = reply
        for service in self.services.values():
            service.settle()  # as its process does once the answer is on its way
        return list(self.replies)

    def pull_messages(self, numbers):
        return [self.replies.pop(number) for number in list(numbers)]

    def serve(self, run: str = "") -> None:
        serve(self, {"run": run, "wait": 0.1})  # who does not answer when it is first asked is not going to

    @property
    def run(self) -> str:
        (directory,) = run_directories(self.homes.server / "runs")
        return directory.name

    def codebook(self, market: str) -> torch.Tensor:
        run = next(iter(self.services[market]._runs.values()))
        (client,) = run.clients.values()
        return client.trainer.model.global_codebook.codewords.detach().clone()


def make_fleet(config, folder: Path, monkeypatch, **options) -> Fleet:
    homes = _homes(config, folder)
    monkeypatch.setenv(HOME_VARIABLE, str(homes.server))
    monkeypatch.setattr(server, "_PAUSE", 0.01)
    return Fleet(homes, **options)


def _homes(config, folder: Path) -> Homes:
    """As ``prepare_homes`` makes them, once for a session, for keys take a while: copies with their own paths."""
    name = hashlib.sha256(to_yaml(config).encode()).hexdigest()
    made = filled_once(Path(os.environ[FOLDER]) / name, lambda made: prepare_homes(config, made / "f")) / "f"
    shutil.copytree(made, folder)
    for path in folder.rglob(CONFIG_FILE):
        path.write_text(path.read_text().replace(str(made), str(folder)))
    return Homes(folder)
