"""The configuration of a run, validated; it imports nothing from the rooms that it configures."""

from fedmm_secure.config.audit import AuditConfig
from fedmm_secure.config.base import Section
from fedmm_secure.config.choices import MIN_COHORT, NOISY_BASELINES, BaselineName, SharedUsers
from fedmm_secure.config.comparison import EvaluationConfig
from fedmm_secure.config.loading import (
    config_from_data,
    configuration_hash,
    data_of_newcomer,
    foreign_config,
    load_yaml,
)
from fedmm_secure.config.privacy import (
    ContributionConfig,
    DiscoveryConfig,
    PrivacyConfig,
    PrivateEmbeddingConfig,
)
from fedmm_secure.config.run import Config
from fedmm_secure.config.sections import DataConfig, EmbeddingConfig, HeadConfig, MarketFile
from fedmm_secure.config.synthetic import SyntheticSpec

__all__ = [
    "MIN_COHORT",
    "NOISY_BASELINES",
    "AuditConfig",
    "BaselineName",
    "Config",
    "ContributionConfig",
    "DataConfig",
    "DiscoveryConfig",
    "EmbeddingConfig",
    "EvaluationConfig",
    "HeadConfig",
    "MarketFile",
    "PrivacyConfig",
    "PrivateEmbeddingConfig",
    "Section",
    "SharedUsers",
    "SyntheticSpec",
    "config_from_data",
    "configuration_hash",
    "data_of_newcomer",
    "foreign_config",
    "load_yaml",
]
