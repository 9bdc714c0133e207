package pkcs11

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sys/unix"

	"chancery/keystore"
)

// A ledger remembers for one token which PINs it has refused, because tokens
// lock after a few wrong ones. One wrong PIN is one attempt, until an operator
// says otherwise.
//
// It never holds anything of a PIN that was accepted: of that it remembers only
// the file it came from, by device, inode, size and times. Of a refused PIN it
// keeps an Argon2id hash with a salt of its own. So:
//
//   - A PIN from the file that was accepted last is offered at once, at the
//     cost of one stat and of the mark: a byte beside the ledger, written before
//     the PIN is offered and taken back when there is an answer. A worker that
//     ends without one says nothing against the PIN, and it may be offered
//     again, until that has happened maxLost times without an answer in between:
//     a module may crash because the PIN was changed. A mark that is found at a
//     start tells of a daemon that died, or that could not write down what the
//     token said; then the PIN is as any other.
//   - Any other PIN is written down as refused, durably, before it is offered,
//     and struck out when the token accepts it. If a crash hides the answer, it
//     counts as refused, and an operator has to say that it may be tried again:
//     the alternative would be to spend another of the token's few attempts.
//     (Config.OwnToken says that the alternative costs nothing.)
//   - Whatever the token answers to a login but yes, the PIN counts as refused.
//     If it answers that the PIN is locked, that says nothing about this one,
//     which then counts as one whose answer is not known.
//   - An operator's retry offers a PIN whose answer is not known once more. One
//     that was refused it offers once more only if the PIN file was written anew
//     since: that is how an operator says that the PIN is right after all, the
//     token's having been set to it. So each attempt takes a PIN that was never
//     tried, or a deliberate act; retrying alone spends none.
//
// A ledger belongs to one goroutine.
type ledger struct {
	path string
	mark string // a file too
	now  func() time.Time
	name string // of the keystore, for hints
	own  bool   // Config.OwnToken
	cost hashCost
	book book
}

// What the mark says. It is overwritten in place, which needs no room on a full
// disk: an attempt is never made without a trace for want of it.
const (
	markIdle    = "-"
	markOffered = "?" // the PIN from the accepted file, and no answer yet

	// And a digit: how many answers in a row were lost since it was accepted.
	maxLost = 2
)

type book struct {
	Accepted *fileIdentity `json:"accepted,omitempty"`
	Refused  []refusedPIN  `json:"refused,omitempty"`
}

type refusedPIN struct {
	At       time.Time    `json:"at"`
	Salt     []byte       `json:"salt"`
	Hash     []byte       `json:"hash"`
	Answered bool         `json:"answered"` // false: the answer is not known
	From     fileIdentity `json:"from"`     // as it was when the PIN was offered
}

// A hashCost is what trying one PIN against an entry takes. It is not in the
// book: entries of another cost are of other PINs.
type hashCost struct{ passes, kibibytes uint32 }

const (
	maxRefused = 32
	hashSize   = 32
)

// RFC 9106 Section 4 and OWASP: 12 MiB, three passes.
var costOfRefused = hashCost{passes: 3, kibibytes: 12 << 10}

// openLedger reads the ledger of the token with the given serial number (or
// label, for a token without one) from cfg.StateDir.
func openLedger(cfg Config, serial string) (*ledger, error) {
	base := filepath.Join(cfg.StateDir, "pin-"+escape(serial, ""))
	l := &ledger{path: base + ".json", mark: base + ".mark", now: cfg.Now, name: cfg.Name, own: cfg.OwnToken, cost: cfg.cost}
	err := readJSON(l.path, &l.book)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("PIN ledger: %w", err) // and no attempt without it
	}
	return l, nil
}

// attempt offers p to login once if the ledger allows it. login's error must
// wrap keystore.ErrPINRejected if the token said no, and errEnded, without
// errFault and errNotAsked, if its answer is not known. After any other error
// the token was not asked, or has accepted the PIN.
func (l *ledger) attempt(p pin, login func(pin []byte) error) error {
	if l.isAccepted(p) {
		return l.again(p, login)
	}
	if err := l.begin(p); err != nil {
		return err
	}
	err := login(p.value)
	switch {
	case err == nil:
		return l.accept(p)
	case errors.Is(err, keystore.ErrPINRejected):
		l.book.Refused[len(l.book.Refused)-1].Answered = !errors.Is(err, errPINLocked)
		l.book.Accepted = nil
		return errors.Join(err, l.save())
	case !isLost(err):
		l.strike() // the trouble was before the login or after it
		return errors.Join(err, l.save())
	}
	return err
}

// again is attempt for the PIN that was accepted last.
func (l *ledger) again(p pin, login func(pin []byte) error) error {
	lost, _ := l.lost()
	if err := l.setMark(markOffered); err != nil {
		return err
	}
	err := login(p.value)
	if errors.Is(err, keystore.ErrPINRejected) {
		l.book.Accepted = nil
		return errors.Join(err, l.refuse(p, !errors.Is(err, errPINLocked))) // the mark stays if this fails
	}
	mark := markIdle
	switch {
	case err == nil || l.own:
	case isLost(err):
		mark = strconv.Itoa(lost + 1)
	case lost > 0: // the token was not asked, which is no answer in between
		mark = strconv.Itoa(lost)
	}
	l.setMark(mark) // one that stays costs a hash at the next start
	return err
}

// lost returns how many answers to the accepted PIN in a row were lost, and
// false if the last one is open.
func (l *ledger) lost() (int, bool) {
	mark, err := os.ReadFile(l.mark)
	if err != nil {
		return 0, false
	}
	if string(mark) == markIdle {
		return 0, true
	}
	n, err := strconv.Atoi(string(mark))
	return n, err == nil
}

// isAccepted reports whether p is the PIN that was accepted last, as far as a
// stat can tell, and nothing has been left open since.
func (l *ledger) isAccepted(p pin) bool {
	if l.book.Accepted == nil || *l.book.Accepted != p.from {
		return false
	}
	lost, known := l.lost()
	return known && lost < maxLost
}

// setMark is durable where it must be: before the PIN is offered.
func (l *ledger) setMark(mark string) error {
	f, err := os.OpenFile(l.mark, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("PIN ledger: %w", err)
	}
	_, err = f.WriteString(mark)
	if err == nil && mark == markOffered {
		err = unix.Fdatasync(int(f.Fd()))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("PIN ledger: %s: %w", l.mark, err)
	}
	return nil
}

// isLost reports whether err leaves open what the token made of the PIN.
func isLost(err error) bool {
	return errors.Is(err, errEnded) && !errors.Is(err, errFault) && !errors.Is(err, errNotAsked)
}

// begin refuses a PIN that was refused before, and writes down any other as
// refused until the token says otherwise.
func (l *ledger) begin(p pin) error {
	i := l.find(p)
	if i >= 0 && !l.book.Refused[i].Answered && l.own {
		l.book.Refused = slices.Delete(l.book.Refused, i, i+1)
		i = -1
	}
	switch {
	case i >= 0 && !l.book.Refused[i].Answered:
		return fmt.Errorf("%w: what the token makes of this PIN, offered at %s, is not known, so it counts as wrong (hint: check the PIN, then `chancery token retry %s`)",
			keystore.ErrPINRejected, l.book.Refused[i].when(), l.name)
	case i >= 0:
		return fmt.Errorf("%w at %s, and not offered again (hint: correct the PIN file, then `chancery token retry %s`)",
			keystore.ErrPINRejected, l.book.Refused[i].when(), l.name)
	case len(l.book.Refused) >= maxRefused:
		return fmt.Errorf("%w: %d different PINs were (hint: check the PIN, then `chancery token retry %s`)",
			keystore.ErrPINRejected, maxRefused, l.name)
	}
	return l.refuse(p, false)
}

// permit is an operator's word that p may be offered once more. The error wraps
// keystore.ErrPINRejected if that would only be the attempt that failed.
func (l *ledger) permit(p pin) error {
	i := l.find(p)
	switch {
	case i < 0 && len(l.book.Refused) < maxRefused:
		return nil
	case i < 0:
		i = 0 // the oldest makes room
	case l.book.Refused[i].Answered && l.book.Refused[i].From == p.from:
		return fmt.Errorf("%w: the PIN file still holds the PIN that was refused at %s, which is not offered again "+
			"(hint: correct the file; if it is right and the token's PIN was set to it, write the file anew; then `chancery token retry %s`)",
			keystore.ErrPINRejected, l.book.Refused[i].when(), l.name)
	}
	l.book.Refused = slices.Delete(l.book.Refused, i, i+1)
	return l.save()
}

// find returns the entry of p, or -1.
func (l *ledger) find(p pin) int {
	return slices.IndexFunc(l.book.Refused, func(r refusedPIN) bool { return r.is(p.value, l.cost) })
}

func (l *ledger) refuse(p pin, answered bool) error {
	r := refusedPIN{At: l.now(), Salt: make([]byte, 16), Answered: answered, From: p.from}
	rand.Read(r.Salt)
	r.Hash = r.hash(p.value, l.cost)
	l.book.Refused = append(l.book.Refused, r)
	return l.save()
}

func (l *ledger) accept(p pin) error {
	l.strike()
	l.book.Accepted = &p.from
	if err := l.save(); err != nil {
		return err
	}
	if err := replace(l.mark, []byte(markIdle)); err != nil {
		return fmt.Errorf("PIN ledger: %w", err)
	}
	return nil
}

// strike takes back what begin wrote: the last entry.
func (l *ledger) strike() { l.book.Refused = l.book.Refused[:len(l.book.Refused)-1] }

func (l *ledger) save() error {
	if err := writeJSON(l.path, l.book); err != nil {
		return fmt.Errorf("PIN ledger: %w", err)
	}
	return nil
}

func (r refusedPIN) when() string { return r.At.UTC().Format(time.RFC3339) }

func (r refusedPIN) hash(value []byte, cost hashCost) []byte {
	return argon2.IDKey(value, r.Salt, cost.passes, cost.kibibytes, 1, hashSize)
}

func (r refusedPIN) is(value []byte, cost hashCost) bool {
	return subtle.ConstantTimeCompare(r.hash(value, cost), r.Hash) == 1
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return replace(path, append(b, '\n'))
}

// replace replaces a file of mode 0600, durably.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
