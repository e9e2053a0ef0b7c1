"""ENGINE "djorm_pool.backends.sqlite3": Django's own backend, pooled."""

from djorm_pool.apps import connect_signals
from djorm_pool.graft import graft_backend

connect_signals()


class DatabaseWrapper(graft_backend("sqlite")):
    """Django's DatabaseWrapper, whose connection is borrowed from the pool."""

    djorm_pool_enabled = True
