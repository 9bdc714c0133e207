package signer

import (
	"context"

	"chancery/keystore"
	"chancery/signer/api"
)

type fakeTokens struct {
	err     error
	status  []keystore.TokenStatus
	retried []string

	reconciled []string
}

func (f *fakeTokens) Status() []keystore.TokenStatus { return f.status }
func (f *fakeTokens) Retry(_ context.Context, token string) error {
	f.retried = append(f.retried, token)
	return f.err
}

func (f *fakeTokens) Reconcile(_ context.Context, name string) (api.Reconciliation, error) {
	f.reconciled = append(f.reconciled, name)
	return api.Reconciliation{At: noon}, f.err
}

func (f *fakeTokens) Reconciled() (api.Reconciliation, bool) {
	return api.Reconciliation{At: noon}, len(f.reconciled) > 0
}
