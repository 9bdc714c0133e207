package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"

	"chancery/keystore"
	"chancery/keystore/pkcs11/internal/confine"
)

// A module is a PKCS#11 module loaded into this process and logged in to one
// token. Where keys are to be made crypto11 opens it, logs in and makes RSA and
// EC keys; everything else goes through miekg/pkcs11 on sessions of our own, which
// share that login. A worker that only signs does without crypto11, which would
// have it initialise twice.
//
// All methods but signer and key belong to one goroutine on one thread, whose
// session desk is.
type module struct {
	path   string
	ctx    *pkcs11.Ctx
	c11    *crypto11.Context // nil unless keys are to be made
	token  tokenInfo
	slot   uint
	says   libraryInfo
	begun  bool        // initialised
	twice  bool        // it was initialised for crypto11 and for us
	seen   []slot      // with a token, since it was initialised
	names  []tokenName // of all tokens, to tell which name is one token's alone
	quirks quirks
	copies bool // sign with session copies, as the quirks have it
	algs   []keystore.Algorithm
	desk   pkcs11.SessionHandle

	loggedIn bool

	mu   sync.RWMutex // guards held
	held map[keyName]*heldKey
}

// A heldKey is a key whose handle is known, checked against its name.
type heldKey struct {
	id      keystore.KeyID
	purpose keystore.Purpose
	alg     keystore.Algorithm
	from    pkcs11.ObjectHandle // the key on the token
	handle  pkcs11.ObjectHandle // what signs: that, or a copy of it
	mech    []*pkcs11.Mechanism
	spki    []byte
}

// loadModule loads the module at path.
func loadModule(path string) (*module, error) {
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("loading %s failed (hint: is it a PKCS#11 module of this architecture?)", path)
	}
	return &module{path: path, ctx: ctx, held: make(map[keyName]*heldKey)}, nil
}

// begin initialises the module and returns its tokens.
func (m *module) begin() ([]tokenInfo, error) {
	if err := m.ctx.Initialize(); err != nil {
		return nil, fmt.Errorf("C_Initialize: %w", err)
	}
	m.begun = true
	if info, err := m.ctx.GetInfo(); err == nil { // without it only the token speaks
		m.says = libraryInfo{clean(info.ManufacturerID), clean(info.LibraryDescription)}
	}
	var err error
	if m.seen, err = m.slots(); err != nil {
		return nil, err
	}
	infos := make([]tokenInfo, 0, len(m.seen))
	for _, s := range m.seen {
		infos = append(infos, s.info)
	}
	return infos, nil
}

// A tokenName is what crypto11 finds a token by: the first that has either.
type tokenName struct{ serial, label string }

type slot struct {
	id   uint
	info tokenInfo
}

// slots lists the slots that hold an initialised token.
func (m *module) slots() ([]slot, error) {
	ids, err := m.ctx.GetSlotList(true)
	if err != nil {
		return nil, fmt.Errorf("C_GetSlotList: %w", err)
	}
	m.names = m.names[:0]
	var slots []slot
	for _, id := range ids {
		ti, err := m.ctx.GetTokenInfo(id)
		if err != nil {
			continue // gone, or not ours to read; a token that is meant will be missed
		}
		m.names = append(m.names, tokenName{clean(ti.SerialNumber), clean(ti.Label)})
		if ti.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		info := tokenInfo{
			Serial: clean(ti.SerialNumber), Label: clean(ti.Label),
			Manufacturer: clean(ti.ManufacturerID), Model: clean(ti.Model),
			FinalTry: ti.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0,
			Locked:   ti.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0,
		}
		q := quirksOf(info, m.says)
		info.Algorithms = m.algorithms(id, q)
		info.Starts, info.Within = q.starts()
		slots = append(slots, slot{id, info})
	}
	return slots, nil
}

// clean drops the zero bytes some modules pad with instead of spaces.
func clean(s string) string { return strings.TrimRight(s, "\x00 ") }

// login opens the token and logs in with pin. An error wraps
// keystore.ErrPINRejected if the token may have counted an attempt.
//
// The PIN becomes a string, which nobody can clear, for as long as this process
// lives: other processes cannot read its memory, it dumps no core, and the daemon
// keeps no copy.
func (m *module) login(r loginRequest, pin []byte) error {
	m.token, m.quirks = r.Token, quirksOf(r.Token, m.says)
	if m.quirks.unusable != "" {
		return fmt.Errorf("%w: %s: %s", keystore.ErrUnsupported, m.quirks.vendor, m.quirks.unusable)
	}
	m.copies = !r.Clerk && m.quirks.copyable != ""
	open := m.open
	if r.Maker {
		open = m.openToMake
	}
	secret := string(pin)
	// Out of swap, if the limit of locked memory lets it; what the module copies is its own.
	_ = confine.LockMemory(unsafe.Slice(unsafe.StringData(secret), len(secret)))
	if err := open(r.Token, secret); err != nil {
		return err
	}
	m.loggedIn = true
	if m.algs = r.Token.Algorithms; len(m.algs) == 0 {
		return errors.New("C_GetMechanismList: no algorithm that Chancery uses")
	}
	return nil
}

// open logs in on the session of the desk.
func (m *module) open(t tokenInfo, pin string) error {
	if err := m.openDesk(t); err != nil {
		return err
	}
	err := m.whole(func() error { return m.ctx.Login(m.desk, pkcs11.CKU_USER, pin) })
	switch cause(err) {
	case pkcs11.CKR_OK, pkcs11.CKR_USER_ALREADY_LOGGED_IN:
		return nil
	case pkcs11.CKR_PIN_LOCKED:
		return errPINLocked
	default:
		return fmt.Errorf("%w: C_Login: %w", keystore.ErrPINRejected, err)
	}
}

// A login that finds the token torn by another process's is tried again so often.
const (
	tornMost  = 20
	tornPause = 10 * time.Millisecond
)

// whole logs in, and again while the answer is that of a token that another process
// is writing: nodes that share a token log in as each sees fit.
func (m *module) whole(login func() error) error {
	err := login()
	for n := 0; n < tornMost && m.tornBy(err); n++ {
		time.Sleep(tornPause)
		err = login()
	}
	return err
}

// tornBy reports whether err is such an answer. An error that has no code is none.
func (m *module) tornBy(err error) bool {
	code := pkcs11.Error(pkcs11.CKR_OK)
	return errors.As(err, &code) && slices.Contains(m.quirks.torn, code)
}

func (m *module) openDesk(t tokenInfo) (err error) {
	if m.slot, err = m.slotOf(t); err != nil {
		return err
	}
	if m.desk, err = m.ctx.OpenSession(m.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return fmt.Errorf("C_OpenSession: %w", err)
	}
	return nil
}

// cause returns the code that err is of, CKR_OK if it is nil.
func cause(err error) pkcs11.Error {
	if err == nil {
		return pkcs11.CKR_OK
	}
	code := pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
	errors.As(err, &code)
	return code
}

// openToMake has crypto11 log in, which wants to initialise by itself.
func (m *module) openToMake(t tokenInfo, pin string) error {
	cfg := &crypto11.Config{Path: m.path, Pin: pin, MaxSessions: 2, PoolWaitTimeout: time.Minute}
	if err := m.point(cfg, t); err != nil {
		return err
	}
	if err := m.ctx.Finalize(); err != nil {
		return fmt.Errorf("C_Finalize: %w", err)
	}
	err := m.whole(func() (err error) {
		m.c11, err = crypto11.Configure(cfg)
		return err
	})
	if err != nil {
		return loginError(err)
	}
	if err := m.initialize(); err != nil {
		return err
	}
	if m.seen, err = m.slots(); err != nil { // it was initialised anew
		return err
	}
	return m.openDesk(t)
}

// point has cfg name t by what no other token has: every token of NSS has one
// serial number, and so has every one of a TPM.
func (m *module) point(cfg *crypto11.Config, t tokenInfo) error {
	var serials, labels int
	for _, n := range m.names {
		if n.serial == t.Serial {
			serials++
		}
		if n.label == t.Label {
			labels++
		}
	}
	switch {
	case t.Serial != "" && serials == 1:
		cfg.TokenSerial = t.Serial
	case t.Label != "" && labels == 1:
		cfg.TokenLabel = t.Label
	default:
		return fmt.Errorf("%w: other tokens have the label %q and the serial number %q too", keystore.ErrAmbiguous, t.Label, t.Serial)
	}
	return nil
}

// initialize makes our own context usable beside crypto11's. It is the same
// library, which is initialised, but for p11-kit's proxy module, which gives each
// who asks functions with a state of their own.
func (m *module) initialize() error {
	err := m.ctx.Initialize()
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("C_Initialize: %w", err)
	}
	m.twice = true
	return nil
}

// loginError tells a refused login from trouble before it. What cannot be told
// counts as refused: some tokens answer a bad PIN with a general error, and an
// attempt too few does no harm.
func loginError(err error) error {
	for _, before := range []string{
		"could not open PKCS#11", "failed to initialize PKCS#11 library", "failed to list PKCS#11 slots",
		"could not find PKCS#11 token", "failed to create long term session",
	} {
		if strings.HasPrefix(err.Error(), before) {
			return err
		}
	}
	if cause := pkcs11.Error(0); errors.As(err, &cause) && cause == pkcs11.CKR_PIN_LOCKED {
		return errPINLocked
	}
	return fmt.Errorf("%w: %w", keystore.ErrPINRejected, err)
}

func (m *module) slotOf(t tokenInfo) (uint, error) {
	slots := slices.DeleteFunc(slices.Clone(m.seen), func(s slot) bool { return s.info.Serial != t.Serial || s.info.Label != t.Label })
	if len(slots) != 1 {
		return 0, fmt.Errorf("%w: %d tokens %q with serial %q", keystore.ErrAmbiguous, len(slots), t.Label, t.Serial)
	}
	return slots[0].id, nil
}

// algorithms returns what the token in a slot can both generate and sign with;
// nil if it does not say.
func (m *module) algorithms(slot uint, q quirks) []keystore.Algorithm {
	if q.unusable != "" {
		return nil
	}
	mechs, err := m.ctx.GetMechanismList(slot)
	if err != nil {
		return nil
	}
	has := func(code uint) bool {
		return slices.ContainsFunc(mechs, func(mech *pkcs11.Mechanism) bool { return mech.Mechanism == code })
	}
	var algs []keystore.Algorithm
	for _, alg := range keystore.Algorithms() {
		k := kindOf(alg)
		if has(k.generate) && has(k.sign) && !slices.Contains(q.lacks, alg) {
			algs = append(algs, alg)
		}
	}
	return algs
}

// check returns an error unless the desk's session is open and logged in.
func (m *module) check() error {
	info, err := m.ctx.GetSessionInfo(m.desk)
	if err != nil {
		return fmt.Errorf("C_GetSessionInfo: %w", err)
	}
	if info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		return fmt.Errorf("the session is not logged in any more: its state is %d", info.State)
	}
	return nil
}

// close ends the use of the module. It may hang or crash, as modules do.
func (m *module) close() error {
	if !m.begun {
		return nil
	}
	if m.c11 == nil {
		return m.ctx.Finalize()
	}
	err := m.c11.Close()
	if m.twice {
		err = errors.Join(err, m.ctx.Finalize())
	}
	return err
}

// key returns the key held under name, or nil.
func (m *module) key(name keyName) *heldKey {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.held[name]
}

func (m *module) hold(k *heldKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[nameOf(k.id, k.spki)] = k
}
