"""Servers that ask who one is: what to set where they refuse, and messages without secrets. Imports no MLflow."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"

_LOGIN = re.compile(r"(?<=://)(?!/)[^\s'\"]*@")
"""To the last @, since a password may hold another, or a slash; not in a path, as SQLite's addresses have."""


def without_secrets(text: str) -> str:
    """`text` with the user and password of every address in it as "***"; and what stands in PASSWORD or TOKEN too."""
    text = _LOGIN.sub("***@", text)
    for name in (PASSWORD, TOKEN):
        if len(secret := os.environ.get(name, "")) > 3:
            text = text.replace(secret, "***")
    return text


def without_login(uri: str) -> str:
    """A server's address as one opens it in a browser, which asks for user and password itself."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def hand_over_login(uri: str) -> str:
    """A server's address without its login, which is put where MLflow looks for one whatever it sends.

    MLflow (3.17) forgets a login in the address when it sends artifacts, and repeats the address in its messages.
    """
    if not uri.startswith(("http://", "https://")) or not (user := _user_in(uri)):
        return uri
    os.environ[USER], os.environ[PASSWORD] = user, unquote(urlsplit(uri).password or "")
    return without_login(uri)


def login(uri: str) -> str:
    """As whom MLflow is asked, such as "user ann"; "" where nothing says."""
    if user := _user_in(uri) or os.environ.get(USER):
        return f"user {user}"
    return f"the token in {TOKEN}" if os.environ.get(TOKEN) else ""


def refusal(status: int, said: str, uri: str) -> str:
    """What to do about a server's answer 401 or 403.  said: the answer itself."""
    who = login(uri)
    if status == 403:
        if "Host header" in said:
            return "the server does not know its own name (403): start it with --allowed-hosts"
        return f"{who or 'one without a login'} may not do this there (403): it takes the permission EDIT"
    if not who:
        return f"the server wants a login (401): set {USER} and {PASSWORD}, or {TOKEN}"
    if _user_in(uri):
        return f"the server does not know {who} with this password (401): both stand in MLFLOW_TRACKING_URI"
    if os.environ.get(USER):
        return f"the server does not know {who} with this password (401): see {USER} and {PASSWORD}"
    return f"the server does not take {who} (401)"


def _user_in(uri: str) -> str:
    try:
        return unquote(urlsplit(uri).username or "")
    except ValueError:
        return ""
