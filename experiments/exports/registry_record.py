"""What a record of the differential-privacy deployments registry holds: fields, types and choices.

Modelled on ``schemas/deployments-schema.yaml`` of github.com/opendp/deployments-registry-data as of July 2026, which
follows Ghazi, Nanayakkara and Vadhan. Fields that the registry leaves free and no run can fill are left out here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Basic(_Section):
    """What was released, and by whom."""

    name: str
    data_curators: list[str] = Field(min_length=1)
    intended_use: str
    data_product_type: Literal[
        "Summary statistics", "Machine learning model", "Dataset", "Synthetic data", "Interactive API", "SQL queries"
    ]
    data_product_region: str
    description: str
    publication_date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")


class Variant(_Section):
    """Which differential privacy, over which data."""

    variant_name: Literal["Pure DP", "Approximate DP", "Zero-concentrated DP", "Renyi DP", "Custom"]
    data_domain: str
    unprotected_quantities: str


class PrivacyParameters(_Section):
    """(ε, δ)."""

    epsilon: float = Field(ge=0)
    delta: float = Field(ge=0, lt=1)


class PrivacyLoss(_Section):
    """The privacy unit, and what it may lose."""

    privacy_unit: str
    privacy_unit_details: str
    privacy_parameters: PrivacyParameters
    privacy_parameters_details: str


class DeploymentModel(_Section):
    """Who holds the data, who adds the noise, and how often."""

    model_name: Literal["Local", "Central", "Shuffle", "Federated", "Varies"]
    model_name_details: str
    actors: str
    release_type: Literal["One release", "Many releases"]
    release_type_details: str
    data_source_type: Literal["Static", "Dynamic"]
    data_source_type_details: str
    access_type: Literal["Interactive", "Non-interactive"]
    access_type_details: str


class Accounting(_Section):
    """What composes, and what is post-processing."""

    post_processing: str
    composition: str


class Implementation(_Section):
    """The mechanisms, and what was chosen before them."""

    preprocessing_and_hyperparameter_tuning: str
    mechanisms: str
    justification: str


class Administrative(_Section):
    """Where the entry comes from."""

    sources: str
    notes: str
    registry_authors: list[str] = Field(min_length=1)


class Deployment(_Section):
    """The whole entry."""

    basic: Basic
    dp_variant: Variant
    privacy_loss: PrivacyLoss
    deployment_model: DeploymentModel
    accounting: Accounting
    implementation: Implementation
    administrative: Administrative


class RegistryRecord(_Section):
    """One deployment, in the registry's order of fields."""

    url_slug: str
    status: Literal["Draft"] = "Draft"  # the registry's board decides on all others
    tier: Literal[1, 2, 3]
    deployment: Deployment
