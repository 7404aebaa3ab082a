"""What a compliance report holds. The published JSON Schema is generated from these classes."""

from __future__ import annotations

import json
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from experiments.assessment.record import Verdict
from experiments.assessment.signatures import Signature, SignedPart
from fedmm_secure.config.choices import CatalogueKind, SharedUsers
from fedmm_secure.guarantee.stages import ALL_VIEWS, VIEWS
from fedmm_secure.storage.digests import Digest
from fedmm_secure.storage.texts import Fingerprint, PartyName, Time
from privacy.json_text import json_text

SCHEMA_FILE = "compliance-report.schema.json"
SCHEMA_ID = "urn:fedmm-secure:compliance-report:10"
EvidenceStanding = Literal["counts", "untrusted", "unsigned", "unbound", "broken"]
MOST_TRUSTED = 100  # cards
LARGEST_EPSILON = 1e9  # nothing is guaranteed long before, and what computes with it does not overflow
Epsilon = Annotated[float | None, Field(ge=0, le=LARGEST_EPSILON, description="null: unbounded, no guarantee")]


class GuaranteeStated(SignedPart):
    """An (ε, δ) statement about one view."""

    epsilon: Epsilon
    delta: float = Field(ge=0, lt=1)
    unit: str
    basis: str = Field(description="what the number rests on")


class AllRuns(SignedPart):
    """What all runs on the same data spend together, by the privacy account and by the run's own ledger."""

    runs: int | None = Field(ge=1, description="runs in the privacy account; null: there is no account to read")
    problem: str | None = Field(description="why the account cannot be read; null where it can")
    without_bound: int = Field(ge=0, description="runs among them without a budget for some claimed view")
    as_planned: bool = Field(description="whether the account holds this run with what its plan spends")
    epsilon: dict[str, Epsilon] = Field(description="by claimed view, of the runs in the account")
    ledger_runs: int = Field(ge=1, description="this run and those before it that its ledger names")
    ledger_epsilon: dict[str, Epsilon] = Field(description="by claimed view, of those")
    ceiling: float | None = Field(
        gt=0,
        le=LARGEST_EPSILON,
        description="ε that the first run on the data fixed for all, against every claimed view, at the report's δ or "
        "a smaller one; null: none was",
    )

    @property
    def known(self) -> int:
        """How many runs on the data are known of, by whichever of the two knows more."""
        return max(self.runs or 1, self.ledger_runs)


class AcrossMarkets(SignedPart):
    """What all runs spend on a person who has rows in all markets that the report is about."""

    markets: int = Field(ge=1, description="markets that the report is about")
    epsilon: dict[str, Epsilon] = Field(description="by claimed view; null: unbounded, or not known")
    delta: float = Field(ge=0, lt=1, description="the largest δ of a market")
    problem: str | None = Field(description="why it is not known; null where it is")


class LedgerStated(SignedPart):
    """The evidence."""

    file: str
    sha256: Digest | None = Field(description="of the file; null: it cannot be read")
    lines: int = Field(ge=1)
    head: Digest = Field(description="hash of the last line; it fixes all lines before it")
    data: str | None = Field(
        description="the rows, by a hash under a key of the run that its owner alone can make again: of two runs it "
        "does not say whether their rows are the same; null: nothing commits to them"
    )
    seeded: bool = Field(description="whether any noise came from a known seed")
    exact: bool = Field(description="whether all noise was integers of an exact law, added to integer sums")
    closed_by: str | None = Field(description="fingerprint of the card that signed the last line; null: not closed")
    self_signed: bool = Field(description="whether the run made that key itself, so that it vouches for nothing")


class EvidenceStated(SignedPart):
    """One statement of attacks or of an audit, and whether it counts."""

    id: str = Field(description="file, and which statement in it")
    kind: Literal["attack", "audit"]
    signer: str | None = Field(description="name on the card that signed it")
    fingerprint: str | None = Field(description="of that card, to be compared with the signer")
    standing: EvidenceStanding
    problem: str | None = Field(description="why it does not count; null where it does")


class AuditStated(SignedPart):
    """One attempt to refute, with canaries, that the code keeps a claim; no measurement of what the run drew."""

    stage: str
    game: str
    claimed: Epsilon
    detects: Epsilon = Field(
        description="an ε from this on would have been detected with 95 % power; null: none that can be named"
    )
    lower_bounds: dict[str, float | None] = Field(description="95 % lower bounds on ε, by method")
    canaries: int = Field(ge=0)
    verdict: Literal["not refuted", "VIOLATED"]
    evidence: str = Field(description="id of the statement that it stands in")


class RatioStated(SignedPart):
    """Something measured over what is stated, at three decimals, with its 95 % interval."""

    value: float
    low: float
    high: float


class CanariesStated(SignedPart):
    """What canaries in the run itself showed of one stage, by its spare sums and the coins that its ledger opens."""

    stage: str
    noise: RatioStated = Field(description="size of the noise over what is stated")
    weight: RatioStated = Field(description="what one canary weighs over what a user may")
    claimed: Epsilon = Field(description="of the stage alone; null: none, or too few canaries to bound it")
    lower_bounds: dict[str, float] = Field(description="95 % lower bounds on ε, by method; none of too few canaries")
    canaries: int = Field(ge=0, description="with a coordinate each")
    verdict: Literal["as stated", "NOT AS STATED"] = Field(description="at the false-alarm rate of the run's noise")


class CanaryUsersStated(SignedPart):
    """What one kind of publication shows of an auditor's canary users: synthetic users among a market's rows."""

    reading: str = Field(description="counts, factors, codes or scores")
    claimed: Epsilon = Field(description="of all stages that it follows from")
    lower_bounds: dict[str, float] = Field(description="95 % lower bounds on ε, by method")
    candidates: int = Field(ge=0, description="who were in or out by the auditor's coins")
    present: int = Field(ge=0, description="how many of them were in")
    auc: float = Field(ge=0, le=1, description="of scores that should tell who was in")
    p_value: float = Field(ge=0, le=1, description="of what was seen, where the claim holds")
    verdict: Literal["not refuted", "VIOLATED", "shows nothing"] = Field(
        description="shows nothing: candidates who were in do not weigh what they add"
    )
    evidence: str = Field(description="id of the statement that it stands in")


class CatalogueStated(SignedPart):
    """Which items are public, and on whose word."""

    kind: CatalogueKind = Field(description="declared: the items found in users' rows, public by the signer's word")
    sha256: Digest = Field(description="of the sorted item ids, one a line")
    size: int = Field(ge=1)


class MarketStated(SignedPart):
    """One market."""

    users: int = Field(ge=1)
    items: int = Field(ge=1)
    catalogue: CatalogueStated
    views: dict[str, GuaranteeStated]
    changed_rows: dict[str, GuaranteeStated] = Field(description="what it implies for a change of one user's rows")
    stages: dict[str, Epsilon] = Field(description="each stage alone, its inputs taken as fixed; not to be added up")
    noise_multipliers: dict[str, float]
    mechanisms: dict[str, str] = Field(description="by stage, what its ledger names; stages that read private rows")
    shown: dict[str, Digest] = Field(
        description="files by path that the run shows of the market: configuration, environment, metrics, and the "
        "models that it publishes"
    )
    all_runs: AllRuns
    ledger: LedgerStated
    audit: list[AuditStated]
    canaries: list[CanariesStated] = Field(description="of the run itself, by stage; none where it has none")
    canary_file: Digest | None = Field(
        description="hash of an auditor's file of canary users, which the configuration commits to; null: none"
    )
    canary_users: list[CanaryUsersStated]

    @field_validator("views")
    @classmethod
    def _every_view(cls, views: dict[str, GuaranteeStated]) -> dict[str, GuaranteeStated]:
        if set(views) != set(ALL_VIEWS):
            raise ValueError(f"the views are {', '.join(ALL_VIEWS)}, each once")
        return views


class AttackStated(SignedPart):
    """What one attack achieved."""

    kind: str = Field(description="name of the attack, as fedmm attack has it")
    attack: str
    view: str
    measure: str
    success: float
    low: float
    high: float
    chance: float | None
    over: str = Field(description="what the interval is taken over")
    verdict: Verdict | None = Field(description="on the view's guarantee; null: there is none to hold it against")
    says: str = Field(description="the same in words, with what these targets would have detected")
    evidence: str = Field(description="id of the statement that it stands in")


class Question(SignedPart):
    """A question of a published framework, and what this run answers."""

    framework: str
    topic: str
    question: str
    answer: str
    by: Literal["run", "controller"] = Field(description="who can answer: the evidence of the run, or its controller")


class TrustedStated(SignedPart):
    """A card that the signer knows the owner of."""

    name: PartyName
    fingerprint: Fingerprint


class Declarations(SignedPart):
    """What the signer says, and no evidence can show."""

    signer: Fingerprint | None = Field(
        description="fingerprint of the signer's own card; null: the report is not signed"
    )
    trusted: list[TrustedStated] = Field(
        max_length=MOST_TRUSTED,
        description="cards of others whose closings and evidence count; those of other keys do not",
    )

    sole_run: bool = Field(
        description="nothing of other runs on the data left the machine, nor was this configuration chosen by them"
    )
    max_epsilon: float = Field(gt=0, description="the organisation's limit on every claimed ε")
    max_delta: float | None = Field(
        gt=0, lt=1, description="its limit on every δ, where that is below 1/n^1.1 of a market's users; null: none"
    )

    @field_validator("trusted")
    @classmethod
    def _each_once(cls, trusted: list[TrustedStated]) -> list[TrustedStated]:
        if len({card.fingerprint for card in trusted}) < len(trusted):
            raise ValueError("a card is named twice")
        return trusted


class VerdictStated(SignedPart):
    """Whether the guarantee may be relied on, and why not."""

    compliant: bool
    reasons: list[str] = Field(description="why it may not be relied on; empty if it may")
    open: list[str] = Field(description="what was not established; for the reader to weigh")


class RunStated(SignedPart):
    """Which run this is about."""

    name: str
    id: str
    configuration_sha256: Digest
    protect: Literal["federation", "release"]
    aggregation: str
    claimed_views: list[str] = Field(description="views that the run's protection level claims a guarantee for")
    seeds: list[int]
    tuned: bool = Field(description="whether the CTR model's hyper-parameters were chosen on private validation rows")
    synthetic: bool = Field(description="whether the rows were generated and are nobody's, so that no account holds it")
    shared_users: SharedUsers = Field(
        description="user ids that several markets have: refused by the run where it held all rows; one person each, "
        "whose ε is composed; or declared to be different people"
    )
    one_noise: bool = Field(
        description="whether some sum over all markets has one noise, so that whoever is in k of them moves it k times"
    )
    private_evaluation: bool = Field(description="whether test figures come from noisy histograms in the ledger")
    baselines: list[str] = Field(description="models that the run's own report shows beside the configured one")
    summed: list[str] = Field(description="stages in which markets add something up")
    smallest_cohort: int = Field(ge=1, description="fewest markets whose updates are added up")
    replay_auditor: str | None = Field(
        description="fingerprint of the card whose owner draws all noise of the run again, and can take it away; null: "
        "nobody's"
    )

    @field_validator("claimed_views")
    @classmethod
    def _known_views(cls, views: list[str]) -> list[str]:
        if not views or not set(views) <= set(VIEWS):
            raise ValueError(f"a guarantee is claimed for some of {', '.join(VIEWS)}")
        return views


class Verification(SignedPart):
    """What ``fedmm verify`` found."""

    verified: bool
    findings: list[str]
    checked: list[str]
    unchecked: list[str] = Field(description="what could not be held to the plan on the machine of the report")


class Document(SignedPart):
    """A compliance report, without signature."""

    format: Literal["fedmm-secure compliance report"] = "fedmm-secure compliance report"
    version: Literal[10] = 10
    created: Time = Field(description="UTC, ISO 8601")
    run: RunStated
    declarations: Declarations
    verdict: VerdictStated
    markets: dict[str, MarketStated] = Field(min_length=1)
    across_markets: AcrossMarkets
    verification: Verification
    evidence: list[EvidenceStated]
    attacks: list[AttackStated]
    assumptions: list[str]
    not_guaranteed: list[str]
    questions: list[Question]
    environment: dict[str, str]


class SignedReport(SignedPart):
    """What a file holds."""

    document: Document
    signature: Signature | None


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a report file."""
    found = SignedReport.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **found}


def schema_text() -> str:
    """The schema as it is published."""
    return json_text(schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def published_schema() -> dict[str, Any]:
    """The schema file that comes with the package."""
    path = resources.files("experiments") / "schemas" / SCHEMA_FILE
    return dict(json.loads(path.read_text(encoding="utf-8")))
