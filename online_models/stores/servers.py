"""The servers of a process: the configured ones, or the embedded ones, with the schema in place."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from online_models.settings import StoreSettings
from online_models.stores import postgres
from online_models.stores.embedded import Endpoints, embedded


@contextmanager
def open_servers(settings: StoreSettings) -> Iterator[Endpoints]:
    """Addresses of a live Redis and a live, migrated PostgreSQL; the one without a configured address is embedded, and
    held while the context is open. Processes that share a home configure the same ones.

    Raises
    ------
    EmbeddedError
        When an embedded server is needed and cannot be started.
    StoreError
        When a configured server does not answer.
    """
    with ExitStack() as held:
        redis_url, dsn = settings.redis_url, settings.postgres_dsn
        if not (redis_url and dsn):
            own = held.enter_context(embedded(settings.home, redis=not redis_url, postgres=not dsn))
            redis_url, dsn = redis_url or own.redis_url, dsn or own.postgres_dsn
        postgres.migrate(dsn)
        yield Endpoints(redis_url, dsn)
