package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"chancery/signer/api"
)

// SignJWT asks for a JWT. req.Claims goes to the daemon byte for byte.
func (c *Client) SignJWT(ctx context.Context, req api.SignJWTRequest) (*api.SignJWTReply, error) {
	body, err := appendJWTRequest(nil, req)
	if err != nil {
		return nil, err
	}
	return ask[api.SignJWTReply](ctx, c, call{method: http.MethodPost, path: "/v1/sign/jwt", in: json.RawMessage(body)})
}

// SignJWTBatch asks for several JWTs, at most api.MaxBatch. Each result is a
// reply or a problem, in the order of reqs.
func (c *Client) SignJWTBatch(ctx context.Context, reqs []api.SignJWTRequest) ([]api.BatchResult, error) {
	body := []byte(`{"requests":[`)
	for i, r := range reqs {
		if i > 0 {
			body = append(body, ',')
		}
		var err error
		if body, err = appendJWTRequest(body, r); err != nil {
			return nil, fmt.Errorf("request %d: %w", i, err)
		}
	}
	body = append(body, "]}"...)
	reply, err := ask[api.BatchReply](ctx, c, call{method: http.MethodPost, path: "/v1/sign/jwt/batch", in: json.RawMessage(body)})
	if err != nil {
		return nil, err
	}
	if len(reply.Results) != len(reqs) {
		return nil, fmt.Errorf("the daemon answered %d of %d requests", len(reply.Results), len(reqs))
	}
	return reply.Results, nil
}

// appendJWTRequest appends req in JSON with its claims as they are: what the
// daemon signs is what the caller wrote, white space and order included.
func appendJWTRequest(b []byte, req api.SignJWTRequest) ([]byte, error) {
	claims := req.Claims
	if !json.Valid(claims) {
		return nil, errors.New("the claims are not valid JSON")
	}
	rest, err := json.Marshal(struct {
		KeySet string `json:"keyset"`
		TTL    *int64 `json:"ttl,omitempty"`
		Typ    string `json:"typ,omitempty"`

		Profile        string `json:"profile,omitempty"`
		CNFCertificate string `json:"cnf_certificate,omitempty"`
	}{req.KeySet, req.TTL, req.Typ, req.Profile, req.CNFCertificate})
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	b = append(b, rest[:len(rest)-1]...)
	b = append(b, `,"claims":`...)
	b = append(b, claims...)
	return append(b, '}'), nil
}

// SignCSR asks for a certificate. With an idempotency key the same request may
// be sent again for 24 hours and is answered with the same certificate; without
// one (empty) an error that is no api.Problem may have cost a certificate.
func (c *Client) SignCSR(ctx context.Context, req api.SignCSRRequest, idempotencyKey string) (*api.SignCSRReply, error) {
	header := http.Header{}
	if idempotencyKey != "" {
		header.Set("Idempotency-Key", idempotencyKey)
	}
	return ask[api.SignCSRReply](ctx, c, call{
		method: http.MethodPost, path: "/v1/sign/csr", in: req, header: header, once: idempotencyKey == "",
	})
}

// KeySets returns the key sets the caller may see.
func (c *Client) KeySets(ctx context.Context) (*api.KeySetList, error) {
	return ask[api.KeySetList](ctx, c, call{method: http.MethodGet, path: "/v1/keysets"})
}

// KeySet returns one key set with its versions.
func (c *Client) KeySet(ctx context.Context, name string) (*api.KeySet, error) {
	return ask[api.KeySet](ctx, c, call{method: http.MethodGet, path: keySetPath(name, "")})
}

// Plan returns what rotation will do with a key set, and what holds it.
func (c *Client) Plan(ctx context.Context, name string) (*api.Plan, error) {
	return ask[api.Plan](ctx, c, call{method: http.MethodGet, path: keySetPath(name, "/plan")})
}

// History returns what was done with a key set, oldest first.
func (c *Client) History(ctx context.Context, name string) (*api.History, error) {
	return c.HistorySince(ctx, name, time.Time{})
}

// HistorySince is History from a moment on; the zero time: from the first day.
func (c *Client) HistorySince(ctx context.Context, name string, since time.Time) (*api.History, error) {
	path := keySetPath(name, "/history")
	if !since.IsZero() {
		path += "?since=" + url.QueryEscape(since.UTC().Format(time.RFC3339Nano))
	}
	return ask[api.History](ctx, c, call{method: http.MethodGet, path: path})
}

// Rotate asks for the successor of a key set's active version to sign at the
// earliest safe moment; with req.When "now", only if that moment is now.
func (c *Client) Rotate(ctx context.Context, name string, req api.OperateRequest) (*api.RotateReply, error) {
	return ask[api.RotateReply](ctx, c, call{method: http.MethodPost, path: keySetPath(name, "/rotate"), in: req, once: true})
}

// Suspend stops a version, and with the active one its key set, at once.
// Suspending what is suspended is not an error.
func (c *Client) Suspend(ctx context.Context, name string, req api.OperateRequest) (*api.SuspendReply, error) {
	return ask[api.SuspendReply](ctx, c, call{method: http.MethodPost, path: keySetPath(name, "/suspend"), in: req})
}

// Resume takes a suspension back.
func (c *Client) Resume(ctx context.Context, name string, req api.OperateRequest) (*api.SuspendReply, error) {
	return ask[api.SuspendReply](ctx, c, call{method: http.MethodPost, path: keySetPath(name, "/resume"), in: req})
}

// Compromise says that a version's key is in other hands. It cannot be taken
// back; asking again answers the same.
func (c *Client) Compromise(ctx context.Context, name string, req api.CompromiseRequest) (*api.CompromiseReply, error) {
	return ask[api.CompromiseReply](ctx, c, call{method: http.MethodPost, path: keySetPath(name, "/compromise"), in: req})
}

// CompromiseAll is Compromise for every key of a token, or of a node. Asking again
// takes what has been made since, too.
func (c *Client) CompromiseAll(ctx context.Context, req api.CompromiseAllRequest) (*api.CompromiseReply, error) {
	return ask[api.CompromiseReply](ctx, c, call{method: http.MethodPost, path: "/v1/ops/compromise", in: req})
}

// Destroy ends the private key of a retired version, for ever. It may be asked
// again when the answer was lost.
func (c *Client) Destroy(ctx context.Context, name string, req api.DestroyRequest) (*api.DestroyReply, error) {
	return ask[api.DestroyReply](ctx, c, call{method: http.MethodPost, path: keySetPath(name, "/destroy"), in: req, once: true})
}

// Reconcile has a keystore compared with the catalog; without a name, every one.
func (c *Client) Reconcile(ctx context.Context, keystore string) (*api.Reconciliation, error) {
	return ask[api.Reconciliation](ctx, c, call{
		method: http.MethodPost, path: "/v1/ops/reconcile", in: api.ReconcileRequest{Keystore: keystore}, once: true,
	})
}

// Reconciled returns the last comparison of every keystore.
func (c *Client) Reconciled(ctx context.Context) (*api.Reconciliation, error) {
	return ask[api.Reconciliation](ctx, c, call{method: http.MethodGet, path: "/v1/ops/reconcile/last"})
}

// Tokens returns the state of the tokens that hold the keys.
func (c *Client) Tokens(ctx context.Context) (*api.TokenList, error) {
	return ask[api.TokenList](ctx, c, call{method: http.MethodGet, path: "/v1/ops/tokens"})
}

// TokenRetry lets a token that waits for an operator be tried once more. token
// is a keystore's name, or a token's serial or label.
func (c *Client) TokenRetry(ctx context.Context, token string) (*api.TokenList, error) {
	return ask[api.TokenList](ctx, c, call{
		method: http.MethodPost, path: "/v1/ops/tokens/retry", in: api.TokenRetryRequest{Token: token}, once: true,
	})
}

// Nodes returns the nodes of the catalog and what waits for them.
func (c *Client) Nodes(ctx context.Context) (*api.NodeList, error) {
	return ask[api.NodeList](ctx, c, call{method: http.MethodGet, path: "/v1/ops/nodes"})
}

// ForgetNode says that a node does not come back.
func (c *Client) ForgetNode(ctx context.Context, name string, req api.ForgetRequest) (*api.ForgetReply, error) {
	return ask[api.ForgetReply](ctx, c, call{
		method: http.MethodPost, path: "/v1/ops/nodes/" + url.PathEscape(name) + "/forget", in: req, once: true,
	})
}

// ClockConfirm has the node go by its wall clock again, which was stepped and is
// right.
func (c *Client) ClockConfirm(ctx context.Context, reason string) (*api.ClockConfirmReply, error) {
	return ask[api.ClockConfirmReply](ctx, c, call{
		method: http.MethodPost, path: "/v1/ops/clock/confirm", in: api.ClockConfirmRequest{Reason: reason}, once: true,
	})
}

func keySetPath(name, rest string) string { return "/v1/keysets/" + url.PathEscape(name) + rest }

func ask[T any](ctx context.Context, c *Client, call call) (*T, error) {
	reply := new(T)
	call.out = reply
	if err := c.do(ctx, call); err != nil {
		return nil, err
	}
	return reply, nil
}
