"""Somebody else's model: what its file may do wrong, and what it cannot take with it."""

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest

from attacks.handlers.handler import Handler, HandlerError, Limits

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "attack-your-model.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
NEEDS = {"truncated_svd": "sklearn", "implicit_als": "implicit"}
ENOUGH = Limits(60, 4 * 2**30)
FIT, SCORE = "def fit(rows):\n    return rows\n", "def score(model, users, items):\n    return users * 1.0\n"


def ask(tiny_markets, path, limits=ENOUGH):
    prepared = tiny_markets["m0"]
    users, items = np.array([3, 0, 2]), np.array([1, 1, 4])
    return Handler(path, limits).ask(prepared.market, prepared.split.train, users, items)


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "model.py"
        path.write_text(text)
        return path

    return write


def test_a_model_is_fitted_and_asked_in_a_process_of_its_own(tiny_markets, written, monkeypatch):
    monkeypatch.setenv("SECRET", "not for a stranger's code")
    path = written(
        "import os\n"
        f"def fit(rows):\n    assert os.getpid() != {os.getpid()} and 'SECRET' not in os.environ\n"
        "    return {'rows': len(rows.user), 'users': rows.n_users}\n"
        "def score(model, users, items):\n    return users + 10 * items + 100 * (model['rows'] > 0)\n"
        "def embed(model, users):\n    return [[user, model['users']] for user in users]\n"
    )
    found = ask(tiny_markets, path)
    assert found.scores.tolist() == [113.0, 110.0, 142.0]
    n = tiny_markets["m0"].market.n_users
    assert found.embeddings.tolist() == [[user, n] for user in range(n)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def fit(rows:\n", "reading it: SyntaxError"),
        ("import no_such_library\n", "reading it: ModuleNotFoundError: No module named 'no_such_library'"),
        (SCORE, "fit: AttributeError"),
        (FIT, "score: AttributeError"),
        ("def fit(rows):\n    raise RuntimeError('no rows\\nat all')\n" + SCORE, "at all"),
        (FIT + "def score(model, users, items):\n    return [1.0]\n", "wants 3 finite numbers"),
        (FIT + "def score(model, users, items):\n    return users / 0\n", "wants 3 finite numbers"),
        (FIT + SCORE + "def embed(model, users):\n    return users\n", "wants finite vectors of 80 users"),
        ("import os\n" + FIT + "def score(model, users, items):\n    os._exit(0)\n", "without a score of each pair"),
        ("import os\n" + FIT + "def score(model, users, items):\n    os._exit(7)\n", "status 7"),
    ],
)
def test_a_mistake_of_its_author_takes_one_line(tiny_markets, written, text, said):
    with pytest.raises(HandlerError, match=r"model\.py") as error:
        ask(tiny_markets, written(text))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_takes_too_long_or_too_much_is_ended(tiny_markets, written):
    slow = written("import time\n" + SCORE + "def fit(rows):\n    time.sleep(60)\n")
    with pytest.raises(HandlerError, match="more than 2 s for one model; --model-seconds"):
        ask(tiny_markets, slow, Limits(2, 4 * 2**30))
    large = written("import numpy\n" + SCORE + "def fit(rows):\n    return numpy.ones(2**29)\n")
    with pytest.raises(HandlerError, match="MemoryError"):
        ask(tiny_markets, large, Limits(60, 2 * 2**30))


def test_it_says_whose_code_runs(tmp_path):
    warning = Handler(tmp_path / "theirs.py", Limits(5, 2**30)).warning
    assert "can do whatever you can do" in warning
    assert "5 s and 1 GiB" in warning
    with pytest.raises(HandlerError, match="no such file"):
        Handler(tmp_path / "theirs.py").ask(None, None, None, None)


@pytest.mark.parametrize(("example", "library"), NEEDS.items())
def test_examples_of_the_documentation_rank_what_users_have_first(tiny_markets, written, example, library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install {library}")
    prepared = tiny_markets["m0"]
    market, train = prepared.market, prepared.split.train
    shuffled = np.random.default_rng(0).permutation(market.item[train])
    pairs = np.tile(market.user[train], 2), np.concatenate([market.item[train], shuffled])
    found = Handler(written(EXAMPLES[example]), ENOUGH).ask(market, train, *pairs)
    assert found.scores[: len(train)].mean() > found.scores[len(train) :].mean()
    assert found.embeddings.shape[0] == market.n_users


def test_every_example_is_tried():
    assert set(EXAMPLES) == set(NEEDS)
