"""Database addresses: one form for SQLAlchemy, one for libpq, and the same database as another role."""

from sqlalchemy.engine import URL, make_url

_DRIVER = "postgresql+psycopg"


def sqlalchemy_url(url: str) -> str:
    """Return the form that SQLAlchemy takes: `postgres://` and `postgresql://` come to mean psycopg."""
    text = "postgresql" + url.removeprefix("postgres") if url.startswith("postgres://") else url
    return _text(make_url(text).set(drivername=_DRIVER))


def psycopg_url(url: str) -> str:
    """Return the form that libpq and psycopg take."""
    return _text(make_url(sqlalchemy_url(url)).set(drivername="postgresql"))


def with_role(url: str, user: str, password: str) -> str:
    """Return the address of the same database for another role."""
    return _text(make_url(sqlalchemy_url(url)).set(username=user, password=password))


def with_database(url: str, database: str) -> str:
    """Return the address of another database on the same server."""
    return _text(make_url(sqlalchemy_url(url)).set(database=database))


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
