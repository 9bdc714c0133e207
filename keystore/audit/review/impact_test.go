package review

import (
	"errors"
	"testing"
	"time"

	"chancery/keystore"
)

// TestImpactOfAKey: what it signed, for whom, and what of it still lives.
func TestImpactOfAKey(t *testing.T) {
	h := sound().signed(22, 2, 600).signed(23, 2, 600)
	h.told(24, keystore.Record{Principal: issuer, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeUnknown, KeySet: "web", Version: 2, KID: kid("web", 2), Exp: h.at(700).Unix()})
	h.told(25, keystore.Record{ID: "c1", Principal: operator, Action: keystore.ActSignCSR, Outcome: keystore.OutcomeIntent, KeySet: "web", Version: 2, KID: kid("web", 2), Serial: "c1", NotAfter: h.at(900).Unix()})
	h.told(26, keystore.Record{Principal: issuer, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeRefused, KeySet: "web", Version: 2, KID: kid("web", 2), Exp: h.at(700).Unix()})
	var all []Signed
	opt := Options{Now: h.at(300)}
	i, err := Trace([]Log{h.log()}, kid("web", 2), opt, func(s Signed) bool { all = append(all, s); return true })
	if err != nil {
		t.Fatal(err)
	}
	if i.KeySet != "web" || i.Version != 2 || i.State != "active" || len(i.Steps) == 0 {
		t.Errorf("the key: %+v", i)
	}
	if i.Acts.Done != 3 || i.Acts.Unknown != 2 || i.Acts.Refused != 1 || len(i.Open) != 2 || len(i.Principals) != 2 {
		t.Errorf("the acts: %+v, open %v, principals %v", i.Acts, i.Open, i.Principals)
	}
	// Two tokens, the one of unknown outcome and the certificate; S belongs to it.
	if i.Live != 4 || !i.LiveUntil.Equal(h.at(901)) || len(all) != 5 {
		t.Errorf("%d live until %v, %d listed", i.Live, i.LiveUntil, len(all))
	}
	if last := all[4]; last.Serial != "c1" || last.Outcome != keystore.OutcomeUnknown || !last.Live {
		t.Errorf("what was begun: %+v", last)
	}
	if i, err := Trace([]Log{h.log()}, kid("web", 2), Options{Now: h.at(622)}, nil); err != nil || i.Live != 4 {
		t.Errorf("a token in its last second and S: %d live, %v", i.Live, err)
	}
	if i, err := Trace([]Log{h.log()}, kid("web", 2), Options{Now: h.at(622), Since: h.at(22), Until: h.at(23)}, nil); err != nil || i.Acts.All() != 1 {
		t.Errorf("in a second: %+v, %v", i.Acts, err)
	}
	if i, err := Trace([]Log{h.log()}, "nobody's", opt, nil); err != nil || i.KeySet != "" || i.Acts.All() != 0 {
		t.Errorf("a key nobody knows: %+v, %v", i, err)
	}
	_, err = Trace([]Log{h.log()}, kid("web", 2), opt, func(Signed) bool { return false })
	if !errors.Is(err, ErrStopped) {
		t.Errorf("after enough: %v", err)
	}
}

// TestAHistoryIsNoToken: a signed history is listed as what it is, and counts apart.
func TestAHistoryIsNoToken(t *testing.T) {
	h := sound().signed(22, 2, 600)
	rec := keystore.Record{Principal: "chancery", Action: keystore.ActSignHistory, Outcome: keystore.OutcomeDone, KeySet: "web", Version: 2, KID: kid("web", 2)}
	h.told(40, rec)
	rec.Outcome = keystore.OutcomeFailed
	h.told(41, rec)
	var all []Signed
	i, err := Trace([]Log{h.log()}, kid("web", 2), Options{Now: h.at(300)}, func(s Signed) bool { all = append(all, s); return true })
	if err != nil {
		t.Fatal(err)
	}
	if i.Acts.All() != 2 || i.Histories.Done != 1 || i.Histories.Failed != 1 || i.Live != 1 || !i.Period.Last.Equal(h.at(41)) {
		t.Errorf("%+v", i)
	}
	if len(all) != 3 || all[1].KeySet != "" || all[2].KeySet != "web" || all[2].Live || all[2].Principal != "chancery" || !all[2].At.Equal(h.at(40)) {
		t.Errorf("%+v", all)
	}
}

// TestBegunAndDoneIsOne: an intent whose outcome comes after the period was not
// left open.
func TestBegunAndDoneIsOne(t *testing.T) {
	h := sound()
	rec := keystore.Record{ID: "c1", Action: keystore.ActSignCSR, Outcome: keystore.OutcomeIntent, KeySet: "web", Version: 2, KID: kid("web", 2), Serial: "c1"}
	h.told(25, rec)
	rec.Outcome = keystore.OutcomeDone
	h.told(26, rec)
	until := h.at(25).Add(500 * time.Millisecond)
	i, err := Trace([]Log{h.log()}, kid("web", 2), Options{Now: h.at(300), Until: until}, nil)
	if err != nil || i.Acts.Unknown != 0 || len(i.Open) != 0 {
		t.Errorf("%+v, open %v, %v", i.Acts, i.Open, err)
	}
	if r := report(t, Options{Until: until}, h); len(r.Deviations) != 0 {
		t.Errorf("%+v", r.Deviations)
	}
}
