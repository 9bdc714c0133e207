package server

import (
	"context"
	"net/http"
	"time"

	"chancery/signer"
	"chancery/signer/api"
)

// within returns ctx with the time that the work for a request may take: what its header
// says, which is the caller's deadline then, and most at the longest.
func within(ctx context.Context, h http.Header, most time.Duration) (context.Context, context.CancelFunc, error) {
	said := h.Values(api.RequestTimeout)
	switch len(said) {
	case 0:
		ctx, cancel := signer.Within(ctx, most)
		return ctx, cancel, nil
	case 1:
	default:
		return nil, nil, api.Errorf(api.CodeMalformed, "more than one %s", api.RequestTimeout)
	}
	d, err := api.ParseTimeout(said[0])
	if err != nil {
		return nil, nil, api.Errorf(api.CodeMalformed, "%s: %v", api.RequestTimeout, err)
	}
	if d > most {
		ctx, cancel := signer.Within(ctx, most)
		return ctx, cancel, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	return ctx, cancel, nil
}
