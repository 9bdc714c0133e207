package main

import (
	"testing"
	"time"

	"chancery/keystore/catalog/postgrestest"
	"chancery/signer/api"
)

// A version that was suspended on one node and resumed on another stayed suspended
// on the first for up to a minute, by its brake.
func TestAResumptionOnAnotherNodeCountsAtOnce(t *testing.T) {
	t.Parallel()
	url, _, _ := postgrestest.Database(t)
	first := startDev(t, tempDir(t), "--fast", "--node", "a", "--postgres", url)
	second := startDev(t, tempDir(t), "--join", first.dir, "--node", "b")
	issuer, other := first.client("issuer"), second.client("operator")
	signs := func() error {
		_, err := issuer.SignJWT(t.Context(), signAs("edge"))
		return err
	}
	first.within(time.Minute, "the first node signs", signs)
	if _, err := first.client("operator").Suspend(t.Context(), "edge", api.OperateRequest{Reason: "a doubt"}); err != nil {
		t.Fatal(err)
	}
	second.within(time.Minute, "the second node resumes", func() error {
		_, err := other.Resume(t.Context(), "edge", api.OperateRequest{Reason: "no doubt"})
		return err
	})
	first.within(15*time.Second, "the first node signs again", signs)
}
