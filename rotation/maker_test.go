package rotation

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

// A rotation asked of a node while another one made the successor was refused with
// a conflict.
func TestARotationWaitsForTheNodeThatMakesTheSuccessor(t *testing.T) {
	for made, want := range map[time.Duration]error{time.Second: nil, time.Minute: errElsewhere} {
		synctest.Test(t, func(t *testing.T) {
			catalog, token := newMemory(time.Now), newSoftware()
			at := time.Now()
			live := keystore.Node{Name: "b", Epoch: 1, EnrolledAt: at, SeenAt: at, SignsUntil: at.Add(time.Hour), PublishesUntil: at.Add(time.Hour)}
			catalog.nodes = []keystore.Node{live}
			set := lives(fast, active(0))
			next := keystore.Version{Number: 2, Algorithm: set.Algorithm, Keystore: set.Keystore, KeyID: keystore.NewKeyID(), State: keystore.Pending, Maker: "b", CreatedAt: at}
			set.Versions = append(set.Versions, next)
			if _, err := catalog.Create(t.Context(), set); err != nil {
				t.Fatal(err)
			}
			r := New(Config{Node: "a", Shared: true, Catalog: catalog, Keys: token, Audit: catalog, Brake: newPedal()})
			defer r.Wait()
			r.adopt([]Spec{{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: set.Algorithm, Keystore: set.Keystore, Schedule: fast}})
			time.AfterFunc(made, func() { // node b publishes it
				spki, err := token.Generate(t.Context(), next.KeyID, set.Purpose, set.Algorithm)
				if err != nil {
					t.Error(err)
				}
				_, err = catalog.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
					v := &ks.Versions[1]
					v.State, v.SPKI, v.PublishedAt = keystore.Published, spki, at.Now
					pub, err := v.Public()
					if err != nil {
						return nil, err
					}
					v.KID, err = keystore.Thumbprint(pub)
					return []keystore.Record{{Action: keystore.ActKeyPublish}}, err
				})
				if err != nil {
					t.Error(err)
				}
			})
			res, err := r.Rotate(t.Context(), Request{By: "olga", KeySet: "web", Reason: "drill"})
			if !errors.Is(err, want) || err == nil && (res.To.Version != 2 || res.Entry == "") {
				t.Errorf("made after %v: %+v, %v", made, res, err)
			}
			time.Sleep(made)
			synctest.Wait()
		})
	}
}
