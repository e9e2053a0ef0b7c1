"""What the pool itself can raise; the graft turns these into django.db exceptions."""


class PoolError(Exception):
    """Base of the pool's own errors. Callers of Django's ORM never see it: they get
    django.db.OperationalError.
    """


class PoolTimeout(PoolError):
    """No connection became free within the borrower's deadline."""


class PoolFull(PoolError):
    """`max_waiting` borrowers wait already, so this one is refused at once."""


class SessionStateLost(PoolError):
    """A statement asks about the one before it, whose connection has been lent to others since."""
