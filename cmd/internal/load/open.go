package load

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// claims are those of every token that is asked for.
var claims = []byte(`{"sub":"bench","aud":"chancery bench"}`)

// Open connects callers to a daemon: each has one way of asking for each part of
// the mix. By HTTP/1.1 each has a connection of its own; by gRPC they share
// connections, at least one and not more than there are callers.
func Open(ctx context.Context, t Target, m Mix, callers, connections int) (ways [][]Caller, err error) {
	ways = make([][]Caller, callers)
	defer func() {
		if err != nil {
			closeAll(ways)
		}
	}()
	for _, p := range m {
		column, err := openPart(ctx, t, p, callers, min(max(1, connections), callers))
		for i, c := range column {
			ways[i] = append(ways[i], c)
		}
		if err != nil {
			return ways, fmt.Errorf("connecting for %s: %w", p.Layer, err)
		}
	}
	return ways, nil
}

// openPart returns what it has connected, also with an error.
func openPart(ctx context.Context, t Target, p Part, callers, connections int) (column []Caller, err error) {
	switch p.Layer {
	case JSON, JSONBatch:
		return openHTTP(ctx, t, jwtRequest(p), callers)
	}
	for left := connections; left > 0; left-- {
		n := (callers - len(column)) / left
		var some []Caller
		if p.Layer == GRPCStream {
			some, err = NewGRPCStream(ctx, t, p.KeySet, claims, n)
		} else {
			some, err = NewGRPC(ctx, t, p.KeySet, claims, p.Batch, n)
		}
		if err != nil {
			return column, err
		}
		column = append(column, some...)
	}
	return column, nil
}

func openHTTP(ctx context.Context, t Target, r Request, callers int) (column []Caller, err error) {
	for range callers {
		c, err := NewHTTP(ctx, t, r)
		if err != nil {
			return column, err
		}
		column = append(column, c)
	}
	return column, nil
}

// OpenRequest connects callers that all send r by HTTP/1.1, each on a connection of
// its own.
func OpenRequest(ctx context.Context, t Target, r Request, callers int) ([][]Caller, error) {
	column, err := openHTTP(ctx, t, r, callers)
	ways := make([][]Caller, len(column))
	for i, c := range column {
		ways[i] = []Caller{c}
	}
	if err != nil {
		closeAll(ways)
		return nil, err
	}
	return ways, nil
}

// Close closes what Open returned.
func Close(ways [][]Caller) { closeAll(ways) }

func jwtRequest(p Part) Request {
	one := fmt.Sprintf(`{"keyset":%s,"claims":%s}`, quote(p.KeySet), claims)
	r := Request{Method: "POST", Path: "/v1/sign/jwt", Body: []byte(one), Mark: `"token":"`, Tokens: p.Tokens()}
	if p.Batch > 0 {
		r.Path = "/v1/sign/jwt/batch"
		r.Body = []byte(`{"requests":[` + strings.Repeat(one+",", p.Batch-1) + one + `]}`)
	}
	return r
}

// CSRRequest asks a daemon for a certificate.
func CSRRequest(authority, profile, csr string) Request {
	body := fmt.Sprintf(`{"authority":%s,"profile":%s,"csr":%s}`, quote(authority), quote(profile), quote(csr))
	return Request{Method: "POST", Path: "/v1/sign/csr", Body: []byte(body), Mark: `"certificate":"`, Tokens: 1}
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string
	}
	return string(b)
}

// A Vault is where the same signatures are asked of another product.
type Vault struct {
	Token string
	Mount string // of the engine
	Key   string // Transit's key, or pki's role
}

// signingInput is as long as that of the daemon's tokens for claims. What makes it,
// the header and the claims that the daemon sets, is work of a Vault's client; here
// nobody does it.
var signingInput = strings.Repeat("eyJhbGciOiJFUzI1NiIsImtpZCI6", 12)

// Sign asks Transit for a signature of a JWT's signing input in the form of JWS, or
// with batch > 0 for as many by batch_input.
func (v Vault) Sign(algorithm string, batch int) Request {
	input := fmt.Sprintf(`"input":%q`, base64.StdEncoding.EncodeToString([]byte(signingInput)))
	tokens := 1
	if batch > 0 {
		one := "{" + input + "}"
		input, tokens = `"batch_input":[`+strings.Repeat(one+",", batch-1)+one+"]", batch
	}
	how := `"marshaling_algorithm":"jws","hash_algorithm":"sha2-256"`
	if strings.HasPrefix(algorithm, "RS") {
		how += `,"signature_algorithm":"pkcs1v15"`
	}
	return v.request("sign/"+v.Key, "{"+how+","+input+"}", `"signature":"`, tokens)
}

// SignCSR asks pki for a certificate.
func (v Vault) SignCSR(commonName, csr string) Request {
	body := fmt.Sprintf(`{"common_name":%s,"csr":%s,"format":"pem"}`, quote(commonName), quote(csr))
	return v.request("sign/"+v.Key, body, `"certificate":"`, 1)
}

func (v Vault) request(path, body, mark string, tokens int) Request {
	return Request{
		Method: "POST", Path: "/v1/" + v.Mount + "/" + path, Headers: [][2]string{{"X-Vault-Token", v.Token}, {"X-Vault-Request", "true"}},
		Body: []byte(body), Mark: mark, Tokens: tokens,
	}
}

// Connections is how many connections share callers by gRPC where nobody says: one
// for sixteen.
func Connections(callers int) int { return max(1, callers/16) }
