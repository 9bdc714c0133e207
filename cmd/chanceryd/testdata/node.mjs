// Verify tokens with a library of npm's and its own cache of key sets, until the
// input ends. Lines are as pyjwt.py's.
//
// usage: node.mjs jose|jwks-rsa MAX_AGE     seconds a key set or key is kept
//        node.mjs jose|oauth4webapi MAX_AGE TYP AUDIENCE    and of that kind, for that one
//
// The packages are in NODE_VERIFIERS/node_modules.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [library, maxAge] = [process.argv[2], Number(process.argv[3]) * 1000];
const [typ, audience] = process.argv.slice(4);
const { resolve } = createRequire(process.env.NODE_VERIFIERS + '/');
const load = async (name) => import(pathToFileURL(resolve(name)));

// A failure to fetch says nothing of the token.
class Unavailable extends Error {}

// perIssuer makes one of something for each issuer, when it is first met.
const perIssuer = (make) => {
  const made = new Map();
  return (issuer) => made.get(issuer) ?? made.set(issuer, make(issuer)).get(issuer);
};

const libraries = {
  async jose() {
    const { createRemoteJWKSet, jwtVerify, errors } = await load('jose');
    const keys = perIssuer((issuer) => createRemoteJWKSet(new URL(issuer + '/jwks.json'), { cacheMaxAge: maxAge }));
    const ofToken = [errors.JWKSNoMatchingKey, errors.JWSSignatureVerificationFailed, errors.JWTClaimValidationFailed, errors.JWTExpired];
    return async (issuer, token) => {
      try {
        await jwtVerify(token, keys(issuer), { issuer, typ, audience });
      } catch (err) {
        throw ofToken.some((kind) => err instanceof kind) ? err : new Unavailable(String(err));
      }
    };
  },
  async 'jwks-rsa'() {
    const { default: jwks } = await load('jwks-rsa');
    const { default: jwt } = await load('jsonwebtoken');
    const clients = perIssuer((issuer) => jwks({ jwksUri: issuer + '/jwks.json', cache: true, cacheMaxAge: maxAge, timeout: 5000 }));
    return async (issuer, token) => {
      const { kid } = jwt.decode(token, { complete: true }).header;
      const key = await clients(issuer).getSigningKey(kid).catch((err) => {
        throw err.name === 'SigningKeyNotFoundError' ? err : new Unavailable(String(err));
      });
      jwt.verify(token, key.getPublicKey(), { issuer, algorithms: ['ES256', 'RS256'] });
    };
  },
  async oauth4webapi() {
    const { validateJwtAccessToken, allowInsecureRequests } = await load('oauth4webapi');
    return async (issuer, token) => {
      const request = new Request(audience, { headers: { authorization: 'Bearer ' + token } });
      await validateJwtAccessToken({ issuer, jwks_uri: issuer + '/jwks.json' }, request, audience, { [allowInsecureRequests]: true });
    };
  },
};

const verify = await libraries[library]();
for await (const line of createInterface({ input: process.stdin })) {
  const answer = { verified: true, unavailable: false, error: '' };
  try {
    await verify(...line.split(' '));
  } catch (err) {
    Object.assign(answer, { verified: false, unavailable: err instanceof Unavailable, error: String(err) });
  }
  console.log(JSON.stringify(answer));
}
