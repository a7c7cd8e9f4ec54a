"""The Hub that the clients load from."""

from hub_server import hub  # noqa: F401
