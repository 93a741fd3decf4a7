"""Access tokens: signed JWTs that name a session; what the session may do is looked up, never read from them."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timezone

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from dumont.core import derive_key
from dumont.http import problems

_ALGORITHM = "HS256"
_ISSUER = "dumont"
_AUDIENCE = "dumont-api"


@dataclass(frozen=True)
class TokenClaims:
    """What a token says about itself, once its signature is proven."""

    user_id: str
    session_id: str
    jti: str
    expires_at: datetime


class Tokens:
    """Issue and read access tokens with the key that follows from the installation's secret.

    Source: RFC 7519 (JWT); the algorithm is pinned, whatever a token's header says (RFC 8725 section 3.1).
    """

    def __init__(self, secret: bytes) -> None:
        key = derive_key(secret, "jwt")
        self._key = OctKey.import_key(key)
        self._key_id = hashlib.sha256(b"dumont key id" + key).hexdigest()[:16]

    def issue(self, claims: TokenClaims, *, email: str, team_id: str, role: str, issued_at: datetime) -> str:
        """Sign a token; e-mail, team and role in it are for the eyes of clients only."""
        header = {"alg": _ALGORITHM, "typ": "JWT", "kid": self._key_id}
        said = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": claims.user_id,
            "email": email,
            "sid": claims.session_id,
            "jti": claims.jti,
            "team_id": team_id,
            "role": role,
            "iat": int(issued_at.timestamp()),
            "exp": int(claims.expires_at.timestamp()),
        }
        return jwt.encode(header, said, self._key, algorithms=[_ALGORITHM])

    def read(self, token: str, now: datetime) -> TokenClaims:
        """Prove a token's signature and read who it names.

        Errors: InvalidToken for another key, algorithm, issuer or form; ExpiredToken when its time is over.
        """
        if token.count(".") != 2 or len(token) > 4096:
            raise problems.InvalidToken()
        try:
            decoded = jwt.decode(token, self._key, algorithms=[_ALGORITHM])
        except (JoseError, ValueError, TypeError) as error:
            raise problems.InvalidToken() from error
        said = decoded.claims
        names = [said.get(name) for name in ("sub", "sid", "jti")]
        expires = said.get("exp")
        right = (
            decoded.header.get("kid") == self._key_id and said.get("iss") == _ISSUER and said.get("aud") == _AUDIENCE
        )
        if not right or not all(isinstance(name, str) for name in names) or not isinstance(expires, int):
            raise problems.InvalidToken()
        if expires <= now.timestamp():
            raise problems.ExpiredToken("The access token has expired. Sign in again.")
        user_id, session_id, jti = (str(name) for name in names)
        return TokenClaims(user_id, session_id, jti, datetime.fromtimestamp(expires, tz=timezone.utc))
