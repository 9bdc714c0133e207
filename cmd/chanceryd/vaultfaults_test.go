package main

import (
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit/transittest"
)

// standby makes Vault a standby whose sys/health answers with status, and
// everything else with 500.
func standby(status int) func(*faked) { return func(f *faked) { f.fake.Standby(status) } }

// The rows of the fault matrix in which Vault serves nobody for a while. Each
// group has a daemon of its own.
var vaultFaults = map[string][]vaultFault{
	"states": {
		{row: "V01 sealed", how: "sealed and unsealed", begin: func(f *faked) { f.fake.Seal() }, end: func(f *faked) { f.fake.Unseal() },
			state: keystore.TokenSealed, says: "sealed", lasts: 2 * time.Second},
		{row: "V01 not initialised", how: "sys/health 501", rules: []transittest.Rule{{Status: 501, Body: `{"errors":["Vault is not initialized"]}`}},
			state: keystore.TokenUnavailable, says: "not initialised (501)", lasts: time.Second},
		{row: "V01 a standby that reaches nobody", how: "sys/health 429", begin: standby(429), end: standby(0),
			state: keystore.TokenUnavailable, says: "on standby", lasts: time.Second},
		{row: "V01 a DR secondary", how: "sys/health 472", begin: standby(472), end: standby(0),
			state: keystore.TokenUnavailable, says: "on standby", lasts: time.Second},
		{row: "V01 a performance standby that reaches nobody", how: "sys/health 473", begin: standby(473), end: standby(0),
			state: keystore.TokenUnavailable, says: "on standby", lasts: time.Second},
		{row: "V01 a standby without an active node", how: "sys/health 474", begin: standby(474), end: standby(0),
			state: keystore.TokenUnavailable, says: "on standby", lasts: time.Second},
		{row: "V01 removed from its cluster", how: "sys/health 530", begin: standby(530), end: standby(0),
			state: keystore.TokenUnavailable, says: "on standby", lasts: time.Second},
		{row: "V01 a standby that passes requests on", how: "sealed, then sys/health 429 and all else well", begin: func(f *faked) { f.fake.Seal() },
			end: func(f *faked) {
				f.fake.Script(transittest.Rule{Path: `^sys/health$`, Status: 429, Body: `{"initialized":true,"sealed":false,"standby":true}`})
				f.fake.Unseal()
			}, state: keystore.TokenSealed, says: "sealed", lasts: time.Second},
	},
	"connections": {
		{row: "V12 nothing is signed", rules: []transittest.Rule{{Path: `/sign/`, Hang: true}},
			state: keystore.TokenUnavailable, says: "no answer in time", lasts: 3 * time.Second},
		{row: "V12 nothing is answered", rules: []transittest.Rule{{Hang: true}},
			state: keystore.TokenUnavailable, says: "no answer in time", lasts: 5 * time.Second},
		{row: "V12 every connection is cut", rules: []transittest.Rule{{Refuse: true}},
			state: keystore.TokenUnavailable, says: "unreachable", lasts: 3 * time.Second},
		{row: "V12 nobody listens", how: "stopped and started", begin: func(f *faked) { f.fake.Close() }, end: func(f *faked) { f.fake.Restart(f.t) },
			state: keystore.TokenUnavailable, says: "connection refused", lasts: 3 * time.Second},
		{row: "V12 everything fails", rules: []transittest.Rule{{Status: 500}},
			state: keystore.TokenUnavailable, says: "failing (500)", lasts: 3 * time.Second},
	},
}

func TestVaultFaults(t *testing.T) {
	groups := map[string]func(*testing.T){"V01 sealed when it is back": sealedWhenItIsBack}
	for name, group := range vaultFaults {
		groups[name] = func(t *testing.T) {
			f := newFaked(t)
			for _, v := range group {
				t.Run(v.row, func(t *testing.T) { f.provoke(t, v) })
			}
			f.end()
		}
	}
	abreast(t, groups)
}

// V01: what is wrong is told anew when it is something else, without a good
// moment between.
func sealedWhenItIsBack(t *testing.T) {
	f := newFaked(t)
	began := time.Now()
	f.fake.Close()
	if err := f.signs(); err == nil {
		t.Error("a Vault that is stopped signed")
	}
	f.awaitState(keystore.TokenUnavailable)
	f.fake.Seal()
	f.fake.Restart(t)
	f.awaitState(keystore.TokenSealed)
	f.fake.Unseal()
	ended := time.Now()
	f.within(backWithin, "vaulted signs", f.signs)
	t.Attr("recovered", time.Since(ended).Round(time.Millisecond).String())
	f.wantStates(began, "unavailable", "sealed", "ready")
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "stopped, started sealed, unsealed")
	t.Attr("seen", "unavailable, sealed and ready, each entered once")
	f.end()
}
