"""The app that SuperNodes run: built once, signed by the founding market, and refused when a byte of it is another.

A SuperNode with ``--trusted-entities`` checks the signature of an app before it unpacks it. Flower's own way to bring
signatures is its public hub; here the server's operator puts the signed app where the SuperLink keeps apps from the
hub, and starts runs of it by its hash. Nothing has to be trusted on that way: the SuperNode checks what arrives.
An older app that the founder signed stays signed.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign
from flwr.superlink.federation import NoOpFederationManager

from experiments.deploy.homes import copy_app
from privacy.aggregation.bundle import Bundle
from privacy.aggregation.identities import Card, Identity, read_public
from privacy.files import KeyFileError, write_atomic, write_json
from privacy.hexadecimal import bytes_of
from privacy.json_text import json_text

APP_FILE, SIGNATURE_FILE, TRUSTED_FILE = "app.fab", "app.json", "trusted.yaml"
APP_ID = "@fedmm-secure/fedmm-flower"


@dataclass(frozen=True)
class SignedApp:
    """An app as SuperNodes get it.

    Attributes:
        content: the bundle that ``flwr build`` makes.
        signer: the market that signed it.
        signed_at: seconds since 1970.
        signature: Ed25519, over eight bytes of ``signed_at`` and SHA-256 of ``content``.
    """

    content: bytes
    signer: str
    signed_at: int
    signature: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the app's bytes, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    def verify(self, card: Card) -> None:
        """Raises ``ValueError`` unless the owner of ``card`` signed it."""
        card.verify(self.signature, _signed_text(self.content, self.signed_at))

    def save(self, folder: Path) -> None:
        """Write the app, and its signature beside it."""
        write_atomic(folder / APP_FILE, self.content)
        fields = {"signer": self.signer, "signed_at": self.signed_at, "signature": self.signature.hex()}
        write_json(folder / SIGNATURE_FILE, fields)

    @classmethod
    def load(cls, folder: Path, bundle: Bundle) -> SignedApp:
        """Read what ``save`` wrote; raises ``KeyFileError`` unless the bundle's founder signed it."""
        path = folder / SIGNATURE_FILE
        fields = read_public(path)
        try:
            content = (folder / APP_FILE).read_bytes()
            signature = bytes_of(fields["signature"])
            found = cls(content, str(fields["signer"]), int(fields["signed_at"]), signature)
            found.verify(bundle.cards[bundle.founder])
        except OSError as error:
            raise KeyFileError(f"{folder / APP_FILE}: cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise KeyFileError(f"{path}: not a signature of {bundle.founder} over {APP_FILE}: {error}") from None
        return found


def sign_app(founder: Identity) -> SignedApp:
    """Build the app that is shipped with this version, and sign it."""
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app"
        copy_app(app)
        content = build_fab_from_disk(app)
    # this text begins with zero bytes, all others that identities sign with a letter or a brace: none is also another
    signed_at = int(time.time())
    return SignedApp(content, founder.card.name, signed_at, founder.sign(_signed_text(content, signed_at)))


def write_trusted(path: Path, bundle: Bundle) -> None:
    """The file for ``flower-supernode --trusted-entities``: the founder of the bundle, and nobody else."""
    public = Ed25519PublicKey.from_public_bytes(bytes_of(bundle.cards[bundle.founder].signing))
    text = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    write_atomic(path, f"{json_text(bundle.founder)}: {json_text(text)}\n".encode())  # JSON is YAML


def store_app(database: Path, app: SignedApp) -> None:
    """Put an app and its signature where the SuperLink that uses ``database`` finds it by its hash."""
    signature = base64.urlsafe_b64encode(app.signature).decode()
    verifications = {
        "valid_license": "Valid",  # Flower's word for: there are signatures
        app.signer: json_text({"signature": signature, "signed_at": app.signed_at}),
    }
    logging.getLogger("flwr").setLevel(logging.WARNING)
    objects = ObjectStoreFactory(str(database))
    state = LinkStateFactory(str(database), NoOpFederationManager(), objects).state()
    fab = Fab(app.digest, app.content, verifications)
    state.store_app(fab, NOOP_FEDERATION_ID, APP_ID, TaskType.SERVER_APP, NOOP_FLWR_AID)


def _signed_text(content: bytes, signed_at: int) -> bytes:
    text: bytes = create_message_to_sign(hashlib.sha256(content).digest(), signed_at)
    return text
