"""Keys with which MLflow encrypts what it keeps in its database: the gateway's API keys, and the secrets of webhooks.

Without them MLflow takes a passphrase that everybody knows, and makes up a key for webhooks in each process.
"""

import pulumi
import pulumi_random as random

from .arguments import MlflowReleaseArgs


def encryption_keys(name: str, args: MlflowReleaseArgs, parent: pulumi.Resource) -> dict[str, pulumi.Output[str]]:
    """Generate the keys and return those in use, as environment variables of the pods."""

    def generated(what: str) -> pulumi.Output[str]:
        # Also where the settings give a key: what the generated one has encrypted can then still be read.
        bytes_ = random.RandomBytes(
            f"{name}-{what}",
            length=32,
            opts=pulumi.ResourceOptions(parent=parent, protect=args.protect),
        )
        # A webhook's key is 32 bytes in the alphabet for URLs (Fernet). A passphrase can be any text.
        return bytes_.base64.apply(lambda text: text.replace("+", "-").replace("/", "_"))

    passphrase, webhooks = generated("passphrase"), generated("webhook-key")
    keys = {
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": args.keys.passphrase or passphrase,
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": args.keys.webhooks or webhooks,
    }
    return {variable: pulumi.Output.secret(key) for variable, key in keys.items()}
