"""Names of the event streams and their partition keys.

The live log is a directory of NDJSON segments or a Kafka topic; both carry `Event` lines under the same key.
"""

from online_models.contracts.ids import UserId

EVENTS = "penstock.events"
"""Impressions, interactions and feedback; NDJSON `Event`; written by the API and by upstream producers, read by the flow."""

DEAD_LETTERS = "penstock.dead-letters"
"""Rows that are not valid events, with their reason; written by the flow."""


def partition_key(user_id: UserId) -> bytes:
    """All events of a user share a partition, so that their order is kept and duplicates meet."""
    return user_id.encode()
