package pkcs11

import (
	"context"
	"fmt"
	"runtime"

	"chancery/keystore"
)

// Inspect asks the module of cfg, in a worker that ends with the call, which
// algorithms the token that cfg names can generate and sign with. It does not
// log in, reads no PIN and writes no file. It returns an error if the module
// does not answer within ctx and Deadlines.Start, or has no such token.
func Inspect(ctx context.Context, cfg Config) (algs []keystore.Algorithm, err error) {
	uri, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, err
	}
	cfg.Deadlines, cfg.Signers = cfg.Deadlines.withDefaults(), 1
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for startGeneration
		algs, err = inspect(ctx, &Provider{cfg: cfg, uri: uri, ctx: ctx})
	}()
	<-done
	return algs, err
}

func inspect(ctx context.Context, p *Provider) ([]keystore.Algorithm, error) {
	g, err := p.execute()
	if g == nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { g.end(errClosed) })
	var token tokenInfo
	if err == nil {
		token, err = p.findToken(g, identity{})
	}
	if stop(); ctx.Err() != nil {
		err = fmt.Errorf("inspecting the token: %w", context.Cause(ctx))
	}
	g.stop(p.cfg.Deadlines.Close, errTold)
	g.reap() // why it ended is in err, if it matters
	if err != nil {
		return nil, err
	}
	return token.Algorithms, nil
}
