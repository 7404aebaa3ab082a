"""What is trained beside what: the configured model and its baselines, on identical candidates."""

from __future__ import annotations

from dataclasses import dataclass

from fedmm_secure.config import BaselineName, Config
from fedmm_secure.config.choices import CODE_LAYERS, CONFIGURED, CodeLayer, CodeOrigin, FeatureGroup, ModelKind


@dataclass(frozen=True)
class Recipe:
    """A CTR model to train.

    Attributes:
        name: ``fedmm`` for the configured model, or a baseline's name.
        kind: model family.
        features: feature groups.
        cross_fit: whether features of training rows are computed without them.
        codes: which quantizer its codes come from, None for none.
        layers: of the quantizer whose codes are features.
        average_local: whether a second model, on codes that the market trained alone, is averaged with it, and in a
            small market that shares a catalogue a third, which sees nothing of other markets.
    """

    name: str
    kind: ModelKind
    features: tuple[FeatureGroup, ...]
    cross_fit: bool
    codes: CodeOrigin | None
    layers: tuple[CodeLayer, ...] = CODE_LAYERS
    average_local: bool = False


def configured_recipe(config: Config) -> Recipe:
    """The model of ``ctr`` in the configuration."""
    cross_fit = config.ctr.training == "cross-fit"
    ctr = config.ctr
    return Recipe(CONFIGURED, ctr.model, ctr.features, cross_fit, ctr.codes, ctr.layers, ctr.average_local)


def baseline_recipe(name: BaselineName) -> Recipe | None:
    """A trained baseline; None for scores, which are not trained here."""
    ids: tuple[FeatureGroup, ...] = ("user_id", "item_id")
    codes: tuple[FeatureGroup, ...] = (*ids, "user_codes", "item_codes")
    match name:
        case "local-ids":
            return Recipe(name, "deepfm", ids, False, None)
        case "local-dcnv2":
            return Recipe(name, "dcnv2", ids, False, None)
        case "local-autoint":
            return Recipe(name, "autoint", ids, False, None)
        case "local-finalmlp":
            return Recipe(name, "finalmlp", ids, False, None)
        case "local-codes":
            return Recipe(name, "deepfm", codes, False, "local")
        case "federated-codes":
            return Recipe(name, "deepfm", codes, False, "federated")
        case "boosted-scores":
            return Recipe(name, "boosted", ("scores", "counts", "recency"), True, None)
    return None
