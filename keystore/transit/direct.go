package transit

import (
	"context"
	"fmt"

	"chancery/keystore"
)

// Direct returns what a program without Chancery does to have a message signed:
// one request for each, of which nothing is shared and nothing verified. It is for
// benchmarks only, and may be called concurrently.
func (p *Provider) Direct(ref keystore.KeyRef, purpose keystore.Purpose) (func(ctx context.Context, message []byte) error, error) {
	k, err := p.newKey(ref, purpose)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, message []byte) error {
		if err := keystore.CheckMessage(purpose, ref.Algorithm, message); err != nil {
			return err
		}
		c := k.call(ctx, message)
		form := signForm(ref.Algorithm)
		form.Batch = nil
		body := struct {
			signRequest
			Input []byte `json:"input"`
		}{form, c.input}
		a, err := p.cluster.do(ctx, &request{method: "POST", path: p.cfg.Mount + "/sign/" + k.name, body: body, within: p.cfg.Deadlines.Sign})
		if err != nil {
			return err
		}
		var r signResult
		if err := a.read(&r); err != nil {
			return err
		}
		if r.Signature == "" {
			return fmt.Errorf("%w: no signature", keystore.ErrUnavailable)
		}
		return nil
	}, nil
}
