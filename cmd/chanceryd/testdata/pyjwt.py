"""Verify tokens with PyJWT and its own cache of key sets, until the input ends.

Each line of the input is an issuer and a token; each is answered by one line:
{"verified": bool, "unavailable": bool, "error": text}. "unavailable" is that the
keys could not be fetched, which says nothing of the token.

usage: pyjwt.py [LIFESPAN]     seconds a key set is kept; PyJWT's own default without
"""
import json
import sys

import jwt

ALGORITHMS = ["ES256", "RS256", "EdDSA"]


class Verifier:
    def __init__(self, **options):
        self.options, self.clients = options, {}

    def verify(self, issuer, token):
        if issuer not in self.clients:
            self.clients[issuer] = jwt.PyJWKClient(issuer + "/jwks.json", **self.options)
        try:
            key = self.clients[issuer].get_signing_key_from_jwt(token).key
        except OSError as err:  # a connection that was cut; others become PyJWKClientErrors
            return {"verified": False, "unavailable": True, "error": repr(err)}
        except jwt.PyJWKClientError as err:
            known = "Unable to find a signing key" in str(err)
            return {"verified": False, "unavailable": not known, "error": str(err)}
        try:
            jwt.decode(token, key, algorithms=ALGORITHMS, issuer=issuer, leeway=0)
        except jwt.PyJWTError as err:
            return {"verified": False, "unavailable": False, "error": repr(err)}
        return {"verified": True, "unavailable": False, "error": ""}


def main(*lifespan):
    verifier = Verifier(**({"lifespan": int(lifespan[0])} if lifespan else {}))
    for line in sys.stdin:
        print(json.dumps(verifier.verify(*line.split())), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
