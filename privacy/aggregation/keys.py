"""Keys of a federation: who its parties are, and the secret that its markets share.

Every party has a long-term identity (Ed25519 to sign, X25519 to receive secrets) and hands out a *card* with the public
halves. The founder, one of the markets, makes the shared key (of the tags that authenticate sums, and of the
encryption), names the parties and the aggregation in a *bundle*, signs it, and seals the key for each market in an
*invitation*. The bundle is public: it is all that the server gets.

On disk, beside the public files, a directory holds ``identity.pem`` and, in a market, ``federation.key``: the shared
key sealed for this market alone, so that a passphrase on the identity protects both. Secret files are created with mode
0600 and refused if others may read them. A key that was *burned* is never used again, whatever is on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privacy.accounting.lines import canonical_json
from privacy.aggregation.bundle import BUNDLE_FILE, MIN_MARKETS, SERVER, Bundle, open_key, read_bundle
from privacy.aggregation.identities import (
    CARD_FILE,
    IDENTITY_FILE,
    Identity,
    read_card,
    read_public,
    write_public,
)
from privacy.aggregation.shared_key import SharedKey
from privacy.errors import InputError
from privacy.files import KeyFileError, erase, read_secret, write_secret

KEY_FILE, USAGE_FILE, BURNED_FILE = "federation.key", "usage.json", "burned.json"
SERVER_FILES = frozenset({IDENTITY_FILE, CARD_FILE, BUNDLE_FILE})


class KeyExhaustedError(InputError):
    """The shared key has protected as many rounds as its bundle allows."""


class KeyBurnedError(InputError):
    """The shared key must not be used again: somebody forged a sum, and the next try would be a second question."""


@dataclass(frozen=True)
class KeyDirectory:
    """The files of one party.

    What is asked of a shared key is asked for a bundle, that of a run: the one on the disk may be a later one by then.
    """

    path: Path
    _burned: set[int] = field(default_factory=set, repr=False, compare=False)  # by this process

    @property
    def has_identity(self) -> bool:
        """Whether a party's keys and card are here."""
        return (self.path / IDENTITY_FILE).exists() and (self.path / CARD_FILE).exists()

    def identity(self, passphrase: bytes | None = None) -> Identity:
        """The party's keys; raises ``KeyFileError`` where they are missing, readable by others, or locked by another
        passphrase.
        """
        return Identity.load(self.path, passphrase)

    def bundle(self) -> Bundle:
        """The federation's bundle; raises ``KeyFileError`` where there is none."""
        return read_bundle(self.path / BUNDLE_FILE)

    def key(self, identity: Identity, bundle: Bundle) -> SharedKey:
        """The shared key of a bundle.

        Raises:
            KeyBurnedError: it must not be used again.
            KeyFileError: there is none, it is not this market's, or others may read the file.
        """
        path = self.path / KEY_FILE
        self.refuse_burned(bundle)
        try:
            return open_key(identity, bundle, read_secret(path))
        except ValueError as error:
            raise KeyFileError(f"{path}: {error}") from None

    def burn(self, bundle: Bundle) -> None:
        """Never use the shared key of a bundle again, nor that of an earlier one; the directory may hold a later one.

        It is given up in this process at once, whatever the disk does, and its file goes even where there is no room
        for the mark: without file or mark nothing is opened after a restart either.
        """
        self._burned.add(bundle.epoch)
        try:
            epoch = max(bundle.epoch, self._burned_epoch())
            write_secret(self.path / BURNED_FILE, canonical_json({"epoch": epoch}), replace=True)  # synced on return
        finally:
            if not self._holds_later(bundle):
                erase(self.path / KEY_FILE)

    def refuse_burned(self, bundle: Bundle) -> None:
        """Raises ``KeyBurnedError`` where a bundle's key was burned, by whichever run: an open one holds it still."""
        if bundle.epoch <= max((*self._burned, self._burned_epoch())):
            raise KeyBurnedError(
                f"{self.path}: the key of epoch {bundle.epoch} was burned by a sum that is not what the markets sent; "
                "make new keys (fedmm keys rotate)"
            )

    def _burned_epoch(self) -> int:
        """The last epoch that is marked as burned, 0 where none is."""
        path = self.path / BURNED_FILE
        return int(read_public(path)["epoch"]) if path.exists() else 0

    def _holds_later(self, bundle: Bundle) -> bool:
        """Whether the key on the disk is certainly that of a later bundle."""
        try:
            return self.bundle().epoch > bundle.epoch
        except (OSError, KeyFileError):
            return False

    def accept(
        self, identity: Identity, bundle: Bundle, sealed: bytes, admitted: Mapping[str, str] | None = None
    ) -> None:
        """Keep a bundle and, in a market, its shared key.

        A newer epoch replaces an older one of the same founder, and of the same parties or of some of them: markets
        may leave, none may change its keys, and none may come that this party does not admit. (A founder who could let
        others in by himself would have as many colluders as he likes.)

        Args:
            identity: of this party.
            bundle: the bundle.
            sealed: the shared key, for this market; empty for the server.
            admitted: fingerprints of the cards that may be new in it, by market.

        Raises:
            KeyBurnedError: its key must not be used again.
            KeyFileError: this party is not in it, the key is not the one it names, or it would replace a
                federation of other parties, too large a one, or a newer epoch.
        """
        name = identity.card.name
        if bundle.cards.get(name) != identity.card:
            raise KeyFileError(f"the bundle of {bundle.founder} does not hold the card of {name}")
        if (self.path / BUNDLE_FILE).exists():
            self._refuse_replacing(self.bundle(), bundle, admitted or {})
        self.refuse_burned(bundle)
        if name != SERVER:
            self._refuse_given_up(bundle)
            try:
                open_key(identity, bundle, sealed)
            except ValueError as error:
                raise KeyFileError(f"the invitation for {name}: {error}") from None
            write_secret(self.path / KEY_FILE, sealed, replace=True)
        write_public(self.path / BUNDLE_FILE, bundle.to_json())

    def _refuse_given_up(self, bundle: Bundle) -> None:
        """A key that is gone although its bundle is there was burned, perhaps where there was no room for the mark."""
        if not (self.path / BUNDLE_FILE).exists() or (self.path / KEY_FILE).exists():
            return
        if self.bundle().epoch >= bundle.epoch:
            raise KeyBurnedError(
                f"{self.path}: the key of epoch {bundle.epoch} was here and was given up; make new keys (fedmm keys "
                "rotate)"
            )

    def _refuse_replacing(self, current: Bundle, new: Bundle, admitted: Mapping[str, str]) -> None:
        come = {name: card for name, card in new.cards.items() if name not in current.cards}
        stayed = {name: card for name, card in new.cards.items() if name not in come}
        if current.founder != new.founder or not stayed.items() <= current.cards.items():
            raise KeyFileError(f"{self.path}: belongs to another federation; use another directory")
        if new.epoch <= current.epoch and new != current:
            raise KeyFileError(f"{self.path}: holds epoch {current.epoch}, not older than {new.epoch}")
        for name, card in come.items():
            if admitted.get(name, "").split() != card.fingerprint.split():
                raise KeyFileError(
                    f"{self.path}: market {name} would come with this bundle, under a fingerprint that was not given; "
                    f"ask it for its own by telephone, and say --admit {name}=FINGERPRINT"
                )
        if len(new.markets) < len(current.markets):
            refuse_few_markets(current, new.markets)

    def used_rounds(self, bundle: Bundle) -> int:
        """Rounds that the key of a bundle has protected."""
        return self._usage().get(str(bundle.epoch), 0)

    def use(self, bundle: Bundle, rounds: int = 1) -> None:
        """Count rounds before they are protected.

        Raises:
            KeyExhaustedError: the bundle does not allow them.
        """
        self.check_allowance(bundle, rounds)
        usage = self._usage()
        used = usage.get(str(bundle.epoch), 0) + rounds
        write_public(self.path / USAGE_FILE, {"rounds": usage | {str(bundle.epoch): used}})

    def check_allowance(self, bundle: Bundle, rounds: int) -> None:
        """Raises ``KeyExhaustedError`` if the key of a bundle may not protect that many rounds more."""
        used = self.used_rounds(bundle)
        if bundle.rotate_after is not None and used + rounds > bundle.rotate_after:
            raise KeyExhaustedError(
                f"{self.path}: the key of epoch {bundle.epoch} has protected {used} of {bundle.rotate_after} rounds, "
                f"{rounds} more are asked for; rotate it (fedmm keys rotate)"
            )

    def _usage(self) -> dict[str, int]:
        """Rounds by epoch: a run goes on with the key that it has while the directory holds a later one.

        Raises:
            KeyFileError: the file does not say so.
        """
        path = self.path / USAGE_FILE
        if not path.exists():
            return {}
        try:
            return {str(int(epoch)): int(rounds) for epoch, rounds in read_public(path)["rounds"].items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise KeyFileError(
                f"{path}: does not say which epoch's key has protected how many rounds, as files of an earlier version "
                "do not: make new keys (fedmm keys rotate), and then remove it"
            ) from None


def refuse_few_markets(bundle: Bundle, left: Collection[str]) -> None:
    """Raises ``KeyFileError`` if too few markets of a federation are left for one of them to hide among the others."""
    needed = max(MIN_MARKETS, bundle.colluders + 2)
    if len(left) < needed:
        raise KeyFileError(
            f"{len(left)} markets would be left, {needed} are needed (at least {MIN_MARKETS}, and two beside the "
            f"{bundle.colluders} that may collude); found a new federation"
        )


def check_server_directory(directory: Path) -> None:
    """Raises ``KeyFileError`` if there is anything but the server's own identity and public material."""
    for path in sorted(directory.iterdir()):
        if path.name not in SERVER_FILES:
            raise KeyFileError(f"{path}: does not belong on the server; it refuses to start")
    name = read_card(directory / CARD_FILE).name
    if name != SERVER:
        raise KeyFileError(f"{directory}: holds the identity of market {name}; the server refuses to start")
