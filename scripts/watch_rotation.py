"""Rotate a key set and verify, each half second, every token that was signed
before, during and after, until the last of them has expired.

Two verifiers look at each token: one that fetches the key set each time, and
one that caches it for as long as the server allows, as relying parties do.

usage: watch_rotation.py CHANCERY DIR ISSUER
"""
import json
import re
import subprocess
import sys
import time
import urllib.request

import jwt
from jwt import PyJWK


class Cached:
    """A relying party that keeps the key set for max-age and never refetches early."""

    def __init__(self, url):
        self.url, self.until, self.keys = url, 0, {}

    def fetch(self):
        with urllib.request.urlopen(self.url) as r:
            age = int(re.search(r"max-age=(\d+)", r.headers["Cache-Control"]).group(1))
            self.keys = {k["kid"]: k for k in json.load(r)["keys"]}
            self.until = time.monotonic() + age

    def key(self, kid):
        if time.monotonic() >= self.until:
            self.fetch()
        return PyJWK(self.keys[kid]).key


def run(chancery, directory, *args):
    out = subprocess.run([chancery, "--dir", directory, *args], check=True, capture_output=True, text=True)
    return out.stdout


def sign(chancery, directory):
    token = run(chancery, directory, "sign", "jwt", "--keyset", "web", "--ttl", "6", "--claims", '{"sub":"watch"}').strip()
    return token, jwt.get_unverified_header(token)["kid"]


def show(keyset, started):
    states = "  ".join(f"v{v['version']} {v['state']}" for v in keyset["versions"] if v["state"] not in ("retired", "abandoned"))
    print(f"  {time.monotonic() - started:5.1f} s  {states}")


def main(chancery, directory, issuer):
    url = issuer + "/jwks.json"
    cached, fresh = Cached(url), Cached(url)
    tokens = [sign(chancery, directory)]  # before anyone asks for a rotation
    reply = json.loads(run(chancery, directory, "rotation", "now", "web", "--reason", "quickstart", "--json"))
    start = tokens[0][1]
    print(f"  version {reply['from']['version']} signs; version {reply['to']['version']} signs from {reply['signs_from']}")
    checks, started, shown = 0, time.monotonic(), None
    signing_until = None
    while True:
        now = time.time()
        if signing_until is None or time.monotonic() < signing_until:
            tokens.append(sign(chancery, directory))
            kid = tokens[-1][1]
            if kid != start and signing_until is None:
                signing_until = time.monotonic() + 2
                print(f"  {time.monotonic() - started:5.1f} s  signed by the successor now")
        alive = 0
        fresh.fetch()
        for token, kid in tokens:
            if jwt.decode(token, options={"verify_signature": False})["exp"] <= time.time() + 0.2:
                continue
            alive += 1
            for verifier in (fresh, cached):
                jwt.decode(token, verifier.key(kid), algorithms=["ES256"], issuer=issuer, leeway=1)
                checks += 1
        keyset = json.loads(run(chancery, directory, "keys", "show", "web", "--json"))
        state = tuple((v["version"], v["state"]) for v in keyset["versions"])
        if state != shown:
            show(keyset, started)
            shown = state
        if signing_until is not None and time.monotonic() >= signing_until and alive == 0:
            break
        if time.monotonic() - started > 90:
            sys.exit("the rotation did not end within 90 s")
        time.sleep(max(0, 0.5 - (time.time() - now)))
    kids = {kid for _, kid in tokens}
    if len(kids) < 2:
        sys.exit("all tokens were signed by one version: no rotation was seen")
    print(f"  {len(tokens)} tokens by {len(kids)} versions: {checks} verifications until the last expired, none failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
