package transit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// BenchmarkSign compares, in one run on one Vault, what direct calls to Transit
// get with what the same number of callers get through the provider, every
// signature verified.
func BenchmarkSign(b *testing.B) {
	if _, ok := transittest.FindVault(); !ok {
		b.Skip("no Vault: scripts/vault/build makes one")
	}
	s := transittest.Vault(b)
	mount := s.Mount(b)
	p, err := transit.Open(config(b, s.Server, mount, s.RootToken()))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.RS256, keystore.EdDSA} {
		ref := keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: alg}
		if ref.SPKI, err = p.Generate(b.Context(), ref.ID, keystore.PurposeJWT, alg); err != nil {
			b.Fatal(err)
		}
		k, err := p.Open(b.Context(), ref, keystore.PurposeJWT)
		if err != nil {
			b.Fatal(err)
		}
		name := fmt.Sprintf("chancery-jwt-%s-%s", map[keystore.Algorithm]string{"ES256": "es256", "RS256": "rs256", "EdDSA": "eddsa"}[alg], ref.ID)
		for _, callers := range []int{1, 16, 64} {
			direct := newDirect(b, s.Server, callers, mount+"/sign/"+name, alg)
			b.Run(fmt.Sprintf("%s/%d/direct", alg, callers), func(b *testing.B) { share(b, callers, direct) })
			b.Run(fmt.Sprintf("%s/%d/provider", alg, callers), func(b *testing.B) {
				share(b, callers, func(ctx context.Context) error {
					_, err := k.Sign(ctx, keystoretest.Message(keystore.PurposeJWT, alg))
					return err
				})
			})
		}
	}
}

// share divides b.N among callers and reports the rate.
func share(b *testing.B, callers int, do func(context.Context) error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sigs/s")
}

// newDirect returns what a program without Chancery does: one HTTP request for
// each signature, over kept connections, by Go's own client.
func newDirect(b *testing.B, s *transittest.Server, callers int, path string, alg keystore.Algorithm) func(context.Context) error {
	pem, err := os.ReadFile(s.CAFile())
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: callers}}
	b.Cleanup(client.CloseIdleConnections)
	body := map[string]any{"input": keystoretest.Message(keystore.PurposeJWT, alg)}
	if alg == keystore.RS256 {
		body["signature_algorithm"] = "pkcs1v15"
	}
	if alg == keystore.ES256 {
		sum := sha256.Sum256(keystoretest.Message(keystore.PurposeJWT, alg))
		body = map[string]any{"input": sum[:], "prehashed": true, "marshaling_algorithm": "jws"}
	}
	text, err := json.Marshal(body)
	if err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, "POST", s.Address()+"/v1/"+path, bytes.NewReader(text))
		if err != nil {
			return err
		}
		req.Header.Set("X-Vault-Token", s.RootToken())
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && !bytes.Contains(answer, []byte(`"vault:v1:`)) {
			err = fmt.Errorf("status %d: %.200s", resp.StatusCode, answer)
		}
		return err
	}
}
