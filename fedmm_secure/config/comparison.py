"""The sections of a configuration that say what a run is compared with, and on which further tasks."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from fedmm_secure.config.base import Section
from fedmm_secure.config.choices import CODE_GROUPS, FEATURE_GROUPS, MODELS, FeatureGroup, ModelKind


class EvaluationConfig(Section):
    """Tasks beside the sampled candidates, of the configured model; what they give stands in the metrics."""

    ranked_users: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="test users, drawn once, for whom the whole pool is ranked: NDCG@10, Recall@10; 0: none",
    )
    short_histories: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (), max_length=10, description="test AUC where of each user so many latest training rows alone are known"
    )


class FieldConfig(Section):
    """The networks of the baselines that markets train together: ``FieldName``."""

    model: ModelKind = Field("deepfm", description="a network; its sizes are those of ctr")
    features: tuple[FeatureGroup, ...] = Field(
        ("user_id", "item_id"),
        max_length=len(FEATURE_GROUPS),
        description="what it sees; without user_id, examples are cross-fitted. No codes",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if MODELS[self.model].most_categories is not None:
            raise ValueError(f"field.model: {self.model} has no weights that could be averaged; choose a network")
        if not self.features or CODE_GROUPS & set(self.features):
            raise ValueError("field.features: name groups without codes, such as user_id and item_id")
        return self
