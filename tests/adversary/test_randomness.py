"""Noise whose seed can be tried: the attack on PyTorch's generator, and why it has nothing to hold on to here."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from fedmm_secure import randomness
from privacy.mechanisms.counts import noisy_counts
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import NoiseSource

SIGMA, N_ITEMS, WINDOW = 0.65, 64, 2**16


def market():
    """Users' weighted rows ``(30, 64)``: some items are nobody's, which the adversary does not know."""
    rng = np.random.default_rng(5)
    rows = np.zeros((30, N_ITEMS))
    for user in range(30):
        rows[user, rng.choice(40, 4, replace=False)] = rng.uniform(0.1, 1, 4)
    return sparse.csr_array(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def broken_counts(rows, seed):
    """As the first version published them: PyTorch's generator with a seed of 63 bits from the operating system."""
    noise = torch.randn(N_ITEMS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return np.asarray(rows.sum(axis=0)).ravel() + SIGMA * noise.numpy()


def seeds_that_explain(published, candidates):
    """Seeds whose first uniforms two published values give away, if both items are nobody's.

    PyTorch turns uniforms ``u, v`` at places j and j+8 of each sixteen into ``sqrt(-2 log(1-u))`` times cosine and sine
    of ``2πv`` (Box, Muller, 1958); from both the uniforms follow.
    """
    normal = (published / SIGMA).reshape(-1, 2, 8)
    cosine, sine = normal[:, 0], normal[:, 1]
    u = 1.0 - np.exp(-0.5 * (cosine**2 + sine**2))
    v = (np.arctan2(sine, cosine) / (2 * np.pi)) % 1.0
    found, generator = [], torch.Generator()
    for seed in candidates:
        drawn = torch.rand(N_ITEMS, generator=generator.manual_seed(seed), dtype=torch.float64).numpy()
        uniforms = drawn.reshape(-1, 2, 8)
        if ((np.abs(uniforms[:, 0] - u) < 1e-9) & (np.abs(uniforms[:, 1] - v) < 1e-9)).any():
            found.append(seed)
    return found


def test_pytorchs_generator_keeps_32_bits_of_a_seed():
    for seed in (7, 2**31 + 5, 2**32 - 1):
        short, long = (torch.Generator().manual_seed(s) for s in (seed, seed + 12345 * 2**32))
        assert torch.equal(torch.randn(100, generator=short), torch.randn(100, generator=long))


def test_the_attack_gives_back_exact_counts_of_the_broken_copy():
    """In a window of 2^16 seeds; all 2^32 take five minutes of one core."""
    rows = market()
    secret = (0x5EED1234 << 32) + 0x00AB0000 + 40_321  # 63 bits, of which 32 matter
    published = broken_counts(rows, secret)
    (found,) = seeds_that_explain(published, range(0x00AB0000, 0x00AB0000 + WINDOW))
    noise = torch.randn(N_ITEMS, generator=torch.Generator().manual_seed(found), dtype=torch.float64).numpy()
    np.testing.assert_allclose(published - SIGMA * noise, np.asarray(rows.sum(axis=0)).ravel(), atol=1e-12)


def test_the_attack_finds_nothing_in_what_the_product_publishes():
    published = noisy_counts(market(), SIGMA, NoiseSource.from_entropy()).values
    assert seeds_that_explain(published, range(WINDOW)) == []


def test_the_products_noise_is_no_function_of_a_short_seed():
    """The strongest form of the attack: every source that a seed of 12 bits gives, against all values at once."""
    rows, unit = market(), Grid.of(SIGMA).step
    exact = np.rint((np.asarray(rows.sum(axis=0)).ravel()) / unit)  # handed to the adversary

    def explains(values, seed):
        noise = NoiseSource.from_seed(seed).discrete_gaussian(N_ITEMS)
        return np.abs(np.rint(values / unit) - exact - noise).max() < 100  # 30 users' rows are cut by a unit each

    seeded = noisy_counts(rows, SIGMA, NoiseSource.from_seed(3_000)).values  # what `seeded` in a ledger means
    assert [seed for seed in range(2**12) if explains(seeded, seed)] == [3_000]
    fresh = noisy_counts(rows, SIGMA, NoiseSource.from_entropy()).values
    assert not [seed for seed in range(2**12) if explains(fresh, seed)]


# -- no other generator touches private rows -----------------------------------------------------------------

ROOT = Path(randomness.__file__).parents[1]
HELPERS = {"numpy_generator", "torch_generator", "derive_seed"}
# modules of the market's code that may use a generator whose seed is public, and why what it draws is public
PUBLIC = {
    "randomness": "makes the generators",
    "collaborative/lightgcn": "without DP: initial values and batches of a comparison that reads ∞",
    "collaborative/pseudo_users": "drawn from private releases: post-processing",
    "ctr/dataset": "cross-fitting and negatives of models that stay in the market",
    "ctr/metrics": "bootstrap of evaluation figures",
    "ctr/models/interactions": "initial values, which read no row",
    "ctr/models/networks": "initial values, which read no row",
    "ctr/models/private": "initial values and batches of pseudo-users: post-processing",
    "ctr/private_trainer": "batches of pseudo-users: post-processing",
    "ctr/pseudo_examples": "pseudo-users: post-processing",
    "ctr/trainer": "cross-fitting and negatives of models that stay in the market",
    "ctr/models/neural": "models that stay in the market",
    "ctr/models/quick": "dropout of models that stay in the market",
    "data/candidates": "candidates of the evaluation",
    "data/prepare": "candidates of the evaluation",
    "data/synthetic": "invented markets",
    "federation/client": "order of rows that cost no budget",
    "field/coded": "without DP: where clusters of items begin, in a comparison",
    "field/market_aware": "initial values, which read no row",
    "field/pooled": "without DP: order of rows of a comparison",
    "heads/examples": "negatives of models that stay in the market, and which users a curve draws",
    "heads/own": "the seed of a model that stays in the market",
    "heads/features": "which pairs a market compares with; features stay in the market",
    "pipeline": "pseudo-users: post-processing",
    "quantization/build": "initial values, which read no row",
    "quantization/codebook": "initial values, which read no row",
    "quantization/rqvae": "initial values, which read no row",
    "quantization/training": "order of rows that cost no budget; without DP, of all",
    "results/scoring": "the name of a seed whose model is loaded",
    "results/metrics": "bootstrap of evaluation figures",
    "results/tasks": "which users a task of the evaluation ranks for",
}


def generators_in(source):
    """Names by which a module reaches a generator that is not private randomness, by its syntax tree."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "random"}
            found |= {alias.name for alias in node.names if alias.name.startswith("numpy.random")}
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            module = node.module or ""
            if module == "random" or module.startswith("numpy.random"):
                found.add(module)
            found |= names & {"random"} if module == "numpy" else set()
            found |= {name for name in names if module == "torch" and is_torch_random(name)}
            found |= names & HELPERS if module.endswith("randomness") else set()
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner == "torch" and is_torch_random(node.attr):
                found.add(f"torch.{node.attr}")
            elif owner in ("np", "numpy") and node.attr == "random":
                found.add("numpy.random")
            elif node.attr in {"normal_", "uniform_", "bernoulli_", "random_", "exponential_", "kaiming_uniform_",
                               "xavier_uniform_"} or (owner == "randomness" and node.attr in HELPERS):  # fmt: skip
                found.add(node.attr)
    return found


def is_torch_random(name):
    drawn = ("rand", "normal", "bernoulli", "multinomial", "poisson", "manual_seed", "seed", "random", "Generator")
    return name.startswith(drawn)


def modules(package):
    folder = ROOT / package
    return {path.relative_to(folder).with_suffix("").as_posix(): path.read_text() for path in folder.rglob("*.py")}


def test_no_generator_but_private_randomness_in_what_makes_a_release_safe():
    assert {name: found for name, text in modules("privacy").items() if (found := generators_in(text))} == {}


def test_generators_with_public_seeds_are_used_where_the_list_says_why_and_nowhere_else():
    users = {name for name, text in modules("fedmm_secure").items() if generators_in(text)}
    assert users == set(PUBLIC)


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch.randn(3)",
        "import torch\nx = torch.Generator()",
        "from torch import randperm",
        "import torch\ntorch.empty(3).normal_()",
        "import numpy as np\nnp.random.default_rng()",
        "from numpy.random import default_rng",
        "from numpy import random",
        "import random",
        "from random import choice",
        "from fedmm_secure.randomness import numpy_generator",
        "from fedmm_secure import randomness\nrandomness.torch_generator('x')",
    ],
)
def test_the_search_finds_every_way_to_a_generator(line):
    assert generators_in(line)


def test_the_search_lets_private_randomness_pass():
    assert not generators_in("from privacy.mechanisms.randomness import NoiseSource\nNoiseSource.from_entropy()")
    assert not generators_in("from fedmm_secure.randomness import noise_source\nimport secrets")
