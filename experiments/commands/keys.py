"""``fedmm keys``: who the parties of a federation are, and the secret that its markets share."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.options import JsonFlag, SetOption
from experiments.configuration import resolve
from experiments.console import one_line, say, say_json, wide_console
from experiments.tables import Table
from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.shared_noise import shared_noise
from privacy.aggregation.authentication import TAG_PRIME
from privacy.aggregation.identities import CARD_FILE, Identity, read_card
from privacy.aggregation.keys import (
    BUNDLE_FILE,
    SERVER,
    Bundle,
    KeyDirectory,
    found_federation,
    read_bundle,
    read_invitation,
    refuse_few_markets,
    write_invitation,
)
from privacy.aggregation.parameters import MARGIN_BITS, MAX_MODULUS_BITS
from privacy.files import KeyFileError
from privacy.names import NAME_RULE, is_name

PASSPHRASE_VARIABLE = "FEDMM_PASSPHRASE"

keys_app = typer.Typer(
    help="Keys of a federation: identities, the shared key, rotation; and why the parameters are exact and secure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeysOption = Annotated[Path, typer.Option("--keys", metavar="DIR", help="Directory of this party's keys.")]
SignOption = Annotated[
    Path | None, typer.Option("--sign", metavar="KEYS", help="Sign it: key directory of fedmm keys join.")
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help=f"File whose first line protects the identity; or set {PASSPHRASE_VARIABLE}."
    ),
]


@keys_app.command(
    "join",
    help="A party's first and last step: make an identity and a card to hand out; later, accept the invitation.\n\n"
    "Example: fedmm keys join de --keys keys/de; then: fedmm keys join de --keys keys/de --invitation de.json",
)
def join(
    name: Annotated[str, typer.Argument(metavar="PARTY", help="Market name, or 'server'.")],
    keys: KeysOption,
    invitation: Annotated[
        Path | None, typer.Option(help="The founder's invitation; for the server, its bundle (federation.json).")
    ] = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    passphrase, directory = read_passphrase(passphrase_file), KeyDirectory(keys)
    identity = own_identity(directory, name, passphrase)
    if invitation is None:
        print(f"card         {keys / CARD_FILE} (public: hand it to the founding market)")
        print(f"fingerprint  {identity.card.fingerprint}")
        return
    if name == SERVER:
        bundle, sealed = read_bundle(invitation), b""
    else:
        bundle, sealed = read_invitation(invitation)
    directory.accept(identity, bundle, sealed)
    _print_bundle(bundle)


@keys_app.command(
    "init",
    help="Found a federation: make the shared key, name the parties, invite the other markets.\n\n"
    "Example: fedmm keys init my.yaml --market ca --keys keys/ca --card de.json --card uk.json --card server.json",
)
def init(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Shipped name or YAML file.")],
    market: Annotated[str, typer.Option(help="The founding market.")],
    keys: KeysOption,
    cards: Annotated[list[Path], typer.Option("--card", help="Card of another market or of the server; repeat.")],
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size", metavar="MARKET=USERS,ITEMS", help="Public size of a market; distributed noise needs all."
        ),
    ] = None,
    overrides: SetOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    passphrase, directory = read_passphrase(passphrase_file), KeyDirectory(keys)
    if (keys / BUNDLE_FILE).exists():
        raise KeyFileError(f"{keys}: belongs to a federation already; use rotate for a new key")
    others = {card.name: card for card in map(read_card, cards)}
    settings = resolve(config, overrides or [])
    markets = sorted({*others, market} - {SERVER})
    stated = dict(_size(text, markets) for text in sizes or [])
    known = market_sizes(settings, markets, {}, stated)
    plan = AggregationPlan.of(settings, len(markets), shared_noise(settings, known))
    identity = own_identity(directory, market, passphrase)
    rotate_after = settings.aggregation.rotate_after
    bundle, sealed = found_federation(
        identity, others, plan.public(), plan.generate_key(), rotate_after=rotate_after, sizes=stated
    )
    _keep_and_invite(directory, identity, bundle, sealed)


@keys_app.command(
    "rotate",
    help="A new shared key; the founder makes it, the others accept new invitations. After a burned key, and without "
    "markets that leave.\n\nExample: fedmm keys rotate --keys keys/ca; fedmm keys rotate --keys keys/ca --without jp",
)
def rotate(
    keys: KeysOption,
    without: Annotated[list[str] | None, typer.Option(metavar="MARKET", help="A market that leaves; repeat.")] = None,
    config: Annotated[
        str | None, typer.Option(metavar="CONFIG", help="Needed where a market leaves distributed noise.")
    ] = None,
    overrides: SetOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    directory = KeyDirectory(keys)
    identity, current = directory.identity(read_passphrase(passphrase_file)), directory.bundle()
    if identity.card.name != current.founder:
        raise KeyFileError(f"{keys}: {current.founder} founded this federation and makes its keys")
    leaving = set(without or [])
    for name in sorted(leaving):
        if name not in current.markets or name == current.founder:
            raise ConfigError(f"--without {name!a:.80}: one of {', '.join(_others(current))} is expected")
    left = [market for market in current.markets if market not in leaving]
    if leaving:
        refuse_few_markets(current, left)
    sizes = {name: size for name, size in current.sizes.items() if name in left}
    plan = _plan_for(current, left, sizes, None if config is None else resolve(config, overrides or []))
    bundle, sealed = found_federation(
        identity,
        {name: current.cards[name] for name in (*left, SERVER) if name != current.founder},
        plan.public(),
        plan.generate_key(),
        epoch=current.epoch + 1,
        rotate_after=current.rotate_after,
        sizes=sizes,
    )
    _keep_and_invite(directory, identity, bundle, sealed)


def _others(bundle: Bundle) -> list[str]:
    return [market for market in bundle.markets if market != bundle.founder]


def _plan_for(
    bundle: Bundle, left: Sequence[str], sizes: Mapping[str, tuple[int, int]], config: Config | None
) -> AggregationPlan:
    """The same aggregation for the markets that are left."""
    plan = AggregationPlan.from_public(bundle.aggregation)
    if len(left) == plan.cohort:
        return plan
    if plan.sum_bound is None:
        return replace(plan, cohort=len(left))
    if config is None:
        raise ConfigError("--without: distributed noise is sized for the markets that are left; give --config CONFIG")
    return AggregationPlan.of(config, len(left), shared_noise(config, market_sizes(config, left, {}, sizes)))


@keys_app.command(
    "show",
    help="What a key directory, card, bundle or invitation says; fingerprints to compare by voice.\n\n"
    "Example: fedmm keys show keys/de",
)
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Key directory or public file.")],
    passphrase_file: PassphraseOption = None,
) -> None:
    if not path.is_dir():
        _print_file(path)
        return
    directory = KeyDirectory(path)
    identity = directory.identity(read_passphrase(passphrase_file))  # checks modes, and that card and keys fit
    print(f"party        {identity.card.name}")
    print(f"fingerprint  {identity.card.fingerprint}")
    if (path / BUNDLE_FILE).exists():
        bundle = directory.bundle()
        if identity.card.name != SERVER:
            directory.key(identity)  # opens, and is the one that the bundle names
            limit = "no limit" if bundle.rotate_after is None else f"of {bundle.rotate_after}"
            print(f"rounds       {directory.used_rounds()} protected, {limit}")
        _print_bundle(bundle)


@keys_app.command(
    "explain",
    help="Why a configuration's encryption is exact and secure: the proof in numbers, bytes a value.\n\n"
    "Example: fedmm keys explain xmarket --set aggregation.bits=16",
)
def explain(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Shipped name or YAML file.")],
    overrides: SetOption = None,
    markets: Annotated[int | None, typer.Option(min=1, help="Number of markets; default: the configuration's.")] = None,
    as_json: JsonFlag = False,
) -> None:
    settings = resolve(config, overrides or [])
    n_markets = markets or settings.data.n_markets
    if settings.privacy.distributed_noise:
        raise ConfigError(
            "privacy.distributed_noise: parameters depend on the markets' sizes; see the bundle of keys init"
        )
    plan = AggregationPlan.of(settings, n_markets)
    found = explanation(plan)
    if as_json:
        say_json(found)
        return
    table = Table("aggregation", plan.kind)
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    wide_console().print(table)
    print(
        f"Authenticated: {plan.tag_values} values more carry a tag modulo 2^{TAG_PRIME.exponent} - 1; a server without "
        "a market inside\nforges a sum with probability below 2^-60, and may try once."
    )
    parameters = plan.parameters
    if parameters is not None:
        print(
            f"Exact: noise and floating point move a sum by {parameters.worst_error:.2g} at most, one half is needed "
            f"to change it;\none half is 2^{parameters.margin_bits:.1f} standard deviations of the noise "
            f"(2^{MARGIN_BITS} are required).\n"
            f"Secure: log2 q = {parameters.prime_bits} of at most {MAX_MODULUS_BITS[parameters.degree]} bits for ring "
            f"degree {parameters.degree}, 128-bit security\n"
            "(Homomorphic Encryption Standard 2018, ternary secret; one bit less at degree 2048)."
        )


def explanation(plan: AggregationPlan) -> dict[str, Any]:
    """The numbers behind a plan, for readers and for machines."""
    found: dict[str, Any] = {
        "values": plan.length,
        "tag_values": plan.tag_values,
        "markets": plan.cohort,
        "largest_value": plan.value_bound,
    }
    server = plan.server()
    parameters = plan.parameters
    if parameters is not None:
        found |= {
            "mask_modulus_bits": plan.mask_bits if plan.masked else None,
            "ring_degree": parameters.degree,
            "modulus_bits": parameters.prime_bits,
            "modulus_bits_at_most": MAX_MODULUS_BITS[parameters.degree],
            "scale_bits": parameters.scale_bits,
            "values_per_coefficient": parameters.values_per_coefficient,
            "ciphertexts": len(parameters.chunk_lengths()),
            "largest_sum_bits": math.log2(parameters.packed_bound),
            "noise_standard_deviation": parameters.noise_std,
            "transform_error": parameters.transform_error,
            "worst_error": parameters.worst_error,
            "margin_bits": parameters.margin_bits,
            "security_bits": 128,
        }
    return found | {
        "update_bytes": server.update_bytes,
        "update_bytes_per_value": server.update_bytes / plan.length,
        "aggregate_bytes": server.aggregate_bytes,
        "aggregate_bytes_per_value": server.aggregate_bytes / plan.length,
    }


def read_passphrase(path: Path | None) -> bytes | None:
    """The passphrase of a file's first line, or of the environment; None if there is none."""
    if path is None:
        return os.environ.get(PASSPHRASE_VARIABLE, "").encode() or None
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    if not lines or not lines[0]:
        raise KeyFileError(f"{path}: the first line is empty; it should hold the passphrase")
    return lines[0]


def read_signer(keys: Path | None, passphrase_file: Path | None) -> Identity | None:
    """The identity of ``--sign``; None where nothing is to be signed.

    Raises:
        KeyFileError: there is no identity in that directory, or not with that passphrase.
    """
    return None if keys is None else Identity.load(keys, read_passphrase(passphrase_file))


def own_identity(directory: KeyDirectory, name: str, passphrase: bytes | None) -> Identity:
    """The identity of a directory, made now if there is none.

    Raises:
        KeyFileError: it is another party's.
    """
    if not is_name(name):
        raise ConfigError(f"party name {name!a:.80}: use {NAME_RULE}")
    if not directory.has_identity:
        Identity.generate(name).save(directory.path, passphrase)
    identity = directory.identity(passphrase)
    if identity.card.name != name:
        raise KeyFileError(f"{directory.path}: holds the keys of {identity.card.name}, not of {name}")
    return identity


def _size(text: str, markets: list[str]) -> tuple[str, tuple[int, int]]:
    name, _, numbers = text.partition("=")
    users, _, items = numbers.partition(",")
    if name not in markets or not (users.isdecimal() and items.isdecimal() and int(users) and int(items)):
        raise ConfigError(f"--size {text}: MARKET=USERS,ITEMS is expected, for one of {', '.join(markets)}")
    return name, (int(users), int(items))


def _keep_and_invite(directory: KeyDirectory, identity: Identity, bundle: Bundle, sealed: dict[str, bytes]) -> None:
    directory.accept(identity, bundle, sealed[identity.card.name])
    for old in (directory.path / "invitations").glob("*.json"):
        old.unlink()  # of another epoch
    for market, box in sealed.items():
        if market != identity.card.name:
            path = directory.path / "invitations" / f"{market}.json"
            write_invitation(path, bundle, box)
            print(f"invitation   {path} (for {market} alone to open)")
    print(f"bundle       {directory.path / BUNDLE_FILE} (public: hand it to the server)")
    _print_bundle(bundle)


def _print_file(path: Path) -> None:
    try:
        card = read_card(path)
    except KeyFileError:
        try:
            bundle = read_bundle(path)
        except KeyFileError:
            bundle, _ = read_invitation(path)
        _print_bundle(bundle)
        return
    say(one_line(f"party        {card.name}"), f"fingerprint  {card.fingerprint}")


def _print_bundle(bundle: Bundle) -> None:
    kind = bundle.aggregation.get("kind")
    say(one_line(f"federation   epoch {bundle.epoch}, founded by {bundle.founder}, {kind}"))
    for name, card in bundle.cards.items():
        say(one_line(f"  {name:<10} {card.fingerprint}"))
    print(f"  all of it  {bundle.fingerprint}\nCompare these by telephone: every party must read the same.")
