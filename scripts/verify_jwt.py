"""Verify a JWT from the issuer's published key set with PyJWT.

usage: verify_jwt.py ISSUER TOKEN
"""
import json
import sys
import urllib.request

import jwt


def main(issuer, token):
    with urllib.request.urlopen(issuer + "/.well-known/openid-configuration") as r:
        metadata = json.load(r)
    assert metadata["issuer"] == issuer, (metadata["issuer"], issuer)
    key = jwt.PyJWKClient(metadata["jwks_uri"]).get_signing_key_from_jwt(token)
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, key.key, algorithms=metadata["id_token_signing_alg_values_supported"],
                        issuer=issuer, options={"verify_aud": False})
    print(f"  verified by PyJWT: {header['alg']:5} kid {header['kid'][:16]}... sub={claims['sub']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
