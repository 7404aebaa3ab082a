"""``fedmm keys``: who the parties of a federation are, and the secret that its markets share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.coins import coins_app
from experiments.commands.options import JsonFlag, SetOption
from experiments.commands.signing import KeysOption, PassphraseOption, read_passphrase
from experiments.presentation.console import one_line, say, say_json, wide_console
from experiments.presentation.tables import Table
from experiments.runs.configuration import resolve
from fedmm_secure.errors import ConfigError
from privacy.aggregation.authentication import TAG_PRIME
from privacy.aggregation.bundle import (
    BUNDLE_FILE,
    SERVER,
    Bundle,
    found_federation,
    read_bundle,
    read_invitation,
    write_invitation,
)
from privacy.aggregation.identities import CARD_FILE, Card, Identity, read_card
from privacy.aggregation.keys import KeyDirectory, refuse_few_markets
from privacy.aggregation.parameters import MARGIN_BITS, MAX_MODULUS_BITS
from privacy.files import KeyFileError
from privacy.names import NAME_RULE, is_name

keys_app = typer.Typer(
    help="Keys of a federation: identities, the shared key, rotation; and why the parameters are exact and secure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


keys_app.add_typer(coins_app)

SizeOption = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="MARKET=USERS,ITEMS", help="Public size of a market; distributed noise needs all."),
]


@keys_app.command(
    "join",
    short_help="Become a party: first and last step.",
    help="A party's first and last step: make an identity and a card to hand out; later, accept the invitation.\n\n"
    "Example: fedmm keys join de --keys keys/de; then: fedmm keys join de --keys keys/de --invitation de.json",
)
def join(
    name: Annotated[str, typer.Argument(metavar="PARTY", help="Market name, or 'server'.")],
    keys: KeysOption,
    invitation: Annotated[
        Path | None, typer.Option(help="The founder's invitation; for the server, its bundle (federation.json).")
    ] = None,
    admit: Annotated[
        list[str] | None,
        typer.Option(metavar="MARKET=FINGERPRINT", help="A market that comes with a later bundle; repeat."),
    ] = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """``fedmm keys join``."""
    passphrase, directory = read_passphrase(passphrase_file), KeyDirectory(keys)
    admitted = dict(_admitted(text) for text in admit or [])
    identity = own_identity(directory, name, passphrase)
    if invitation is None:
        say(f"card         {keys / CARD_FILE} (public: hand it to the founding market)")
        say(f"fingerprint  {identity.card.fingerprint}")
        return
    if name == SERVER:
        bundle, sealed = read_bundle(invitation), b""
    else:
        bundle, sealed = read_invitation(invitation)
    directory.accept(identity, bundle, sealed, admitted)
    _print_bundle(bundle)


@keys_app.command(
    "init",
    short_help="Found a federation.",
    help="Found a federation: make the shared key, name the parties, invite the other markets.\n\n"
    "Example: fedmm keys init my.yaml --market ca --keys keys/ca --card de.json --card uk.json --card server.json",
)
def init(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Shipped name or YAML file.")],
    market: Annotated[str, typer.Option(help="The founding market.")],
    keys: KeysOption,
    cards: Annotated[list[Path], typer.Option("--card", help="Card of another market or of the server; repeat.")],
    sizes: SizeOption = None,
    overrides: SetOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """``fedmm keys init``."""
    passphrase, directory = read_passphrase(passphrase_file), KeyDirectory(keys)
    if (keys / BUNDLE_FILE).exists():
        raise KeyFileError(f"{keys}: belongs to a federation already; use rotate for a new key")
    others = _cards(cards)
    settings = resolve(config, overrides or [])
    markets = sorted({*others, market} - {SERVER})
    stated = dict(_size(text, markets) for text in sizes or [])
    from experiments.deploy.key_plans import plan_of  # and with it the encryption

    plan = plan_of(settings, markets, stated)
    identity = own_identity(directory, market, passphrase)
    rotate_after = settings.aggregation.rotate_after
    bundle, sealed = found_federation(
        identity, others, plan.public(), plan.generate_key(), rotate_after=rotate_after, sizes=stated
    )
    _keep_and_invite(directory, identity, bundle, sealed)


@keys_app.command(
    "rotate",
    short_help="Make a new shared key.",
    help="A new shared key; the founder makes it, the others accept new invitations. After a burned key, without "
    "markets that leave, and with markets that come, which all others have to admit (fedmm keys join --admit).\n\n"
    "Example: fedmm keys rotate --keys keys/ca --without jp; fedmm keys rotate --keys keys/ca --with se.json",
)
def rotate(
    keys: KeysOption,
    without: Annotated[list[str] | None, typer.Option(metavar="MARKET", help="A market that leaves; repeat.")] = None,
    coming: Annotated[
        list[Path] | None, typer.Option("--with", metavar="CARD", help="Card of a market that comes; repeat.")
    ] = None,
    sizes: SizeOption = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="CONFIG", help="Needed where noise or sums are sized by the markets that take part."),
    ] = None,
    overrides: SetOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """``fedmm keys rotate``."""
    directory = KeyDirectory(keys)
    identity, current = directory.identity(read_passphrase(passphrase_file)), directory.bundle()
    if identity.card.name != current.founder:
        raise KeyFileError(f"{keys}: {current.founder} founded this federation and makes its keys")
    leaving = set(without or [])
    for name in sorted(leaving):
        if name not in current.markets or name == current.founder:
            raise ConfigError(f"--without {name!a:.80}: one of {', '.join(_others(current))} is expected")
    come = _cards(coming or [])
    for name in come:
        if name in current.cards:
            raise ConfigError(f"--with: {name!a:.80} is a party already; a market that changes its keys is another one")
    left = sorted({*current.markets, *come} - leaving)
    if leaving:
        refuse_few_markets(current, left)
    stated = {name: size for name, size in current.sizes.items() if name in left}
    stated |= dict(_size(text, left) for text in sizes or [])
    settings = None if config is None else resolve(config, overrides or [])
    from experiments.deploy.key_plans import plan_for  # and with it the encryption

    plan = plan_for(current, left, stated, settings)
    cards = {**current.cards, **come}
    bundle, sealed = found_federation(
        identity,
        {name: cards[name] for name in (*left, SERVER) if name != current.founder},
        plan.public(),
        plan.generate_key(),
        epoch=current.epoch + 1,
        rotate_after=current.rotate_after,
        sizes=stated,
    )
    _keep_and_invite(directory, identity, bundle, sealed, {name: card.fingerprint for name, card in come.items()})


def _cards(paths: Sequence[Path]) -> dict[str, Card]:
    """Cards by name; raises ``KeyFileError`` where two have one, for nobody says whose it is."""
    found: dict[str, tuple[Path, Card]] = {}
    for path in paths:
        card = read_card(path)
        if card.name in found:
            raise KeyFileError(f"{path}: is a card of {card.name!a:.80}, as {found[card.name][0]} is; give one of them")
        found[card.name] = path, card
    return {name: card for name, (_, card) in found.items()}


def _others(bundle: Bundle) -> list[str]:
    return [market for market in bundle.markets if market != bundle.founder]


@keys_app.command(
    "show",
    short_help="What a key, card or invitation says.",
    help="What a key directory, card, bundle or invitation says; fingerprints to compare by voice.\n\n"
    "Example: fedmm keys show keys/de",
)
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Key directory or public file.")],
    passphrase_file: PassphraseOption = None,
) -> None:
    """``fedmm keys show``."""
    if not path.is_dir():
        _print_file(path)
        return
    directory = KeyDirectory(path)
    identity = directory.identity(read_passphrase(passphrase_file))  # checks modes, and that card and keys fit
    say(f"party        {identity.card.name}")
    say(f"fingerprint  {identity.card.fingerprint}")
    if (path / BUNDLE_FILE).exists():
        bundle = directory.bundle()
        if identity.card.name != SERVER:
            directory.key(identity, bundle)  # opens, and is the one that the bundle names
            limit = "no limit" if bundle.rotate_after is None else f"of {bundle.rotate_after}"
            say(f"rounds       {directory.used_rounds(bundle)} protected, {limit}")
        _print_bundle(bundle)


@keys_app.command(
    "explain",
    short_help="Why the encryption is exact and secure.",
    help="Why a configuration's encryption is exact and secure: the proof in numbers, bytes a value.\n\n"
    "Example: fedmm keys explain xmarket --set aggregation.bits=16",
)
def explain(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Shipped name or YAML file.")],
    overrides: SetOption = None,
    markets: Annotated[int | None, typer.Option(min=1, help="Number of markets; default: the configuration's.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm keys explain``."""
    settings = resolve(config, overrides or [])
    n_markets = markets or settings.data.n_markets
    for key, sized in (
        ("privacy.distributed_noise", settings.privacy.distributed_noise),
        ("data.shared_items", settings.data.shared_items),
    ):
        if sized:
            raise ConfigError(f"{key}: parameters depend on the markets' sizes; see the bundle of keys init")
    from experiments.deploy.key_plans import explanation, plan_of  # and with it the encryption

    plan = plan_of(settings, list(map(str, range(n_markets))), {})
    found = explanation(plan)
    if as_json:
        say_json(found)
        return
    table = Table("aggregation", plan.kind)
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    wide_console().print(table)
    say(
        f"Authenticated: {plan.tag_values} values more carry a tag modulo 2^{TAG_PRIME.exponent} - 1; a server without "
        "a market inside\nforges a sum with probability below 2^-60, and may try once."
    )
    parameters = plan.parameters
    if parameters is not None:
        say(
            f"Exact: noise and floating point move a sum by {parameters.worst_error:.2g} at most, one half is needed "
            f"to change it;\none half is 2^{parameters.margin_bits:.1f} standard deviations of the noise "
            f"(2^{MARGIN_BITS} are required).\n"
            f"Secure: log2 q = {parameters.prime_bits} of at most {MAX_MODULUS_BITS[parameters.degree]} bits for ring "
            f"degree {parameters.degree}, 128-bit security\n"
            "(Homomorphic Encryption Standard 2018, ternary secret; one bit less at degree 2048)."
        )


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


def _admitted(text: str) -> tuple[str, str]:
    name, equals, fingerprint = text.partition("=")
    if not (is_name(name) and equals and fingerprint.strip()):
        raise ConfigError(f"--admit {text!a:.80}: MARKET=FINGERPRINT is expected")
    return name, fingerprint


def _size(text: str, markets: list[str]) -> tuple[str, tuple[int, int]]:
    name, _, numbers = text.partition("=")
    users, _, items = numbers.partition(",")
    if name not in markets or not (users.isdecimal() and items.isdecimal() and int(users) and int(items)):
        raise ConfigError(f"--size {text}: MARKET=USERS,ITEMS is expected, for one of {', '.join(markets)}")
    return name, (int(users), int(items))


def _keep_and_invite(
    directory: KeyDirectory,
    identity: Identity,
    bundle: Bundle,
    sealed: dict[str, bytes],
    admitted: Mapping[str, str] | None = None,
) -> None:
    directory.accept(identity, bundle, sealed[identity.card.name], admitted)
    for old in (directory.path / "invitations").glob("*.json"):
        old.unlink()  # of another epoch
    for market, box in sealed.items():
        if market != identity.card.name:
            path = directory.path / "invitations" / f"{market}.json"
            write_invitation(path, bundle, box)
            say(f"invitation   {path} (for {market} alone to open)")
    say(f"bundle       {directory.path / BUNDLE_FILE} (public: hand it to the server)")
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
    say(f"  all of it  {bundle.fingerprint}\nCompare these by telephone: every party must read the same.")
