package pkcs11

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"chancery/keystore"
)

// A verb is what a worker is asked to do.
type verb byte

const (
	verbHello    verb = iota + 1 // the generation's first frame; body: protocol version
	verbLoad                     // load the module; body: its path
	verbTokens                   // initialise it, list its tokens
	verbLogin                    // body: the PIN; JSON before it says for which token
	verbFind                     // check a key pair and hold it
	verbGenerate                 // make a key pair and hold it
	verbSign
	verbList
	verbProbe   // look after the session of the desk
	verbDestroy // body: the key's name
	verbWriteNote
	verbReadNotes
	verbSignSheaf // several messages; see sheaf.go
)

// A status is how a request went.
type status byte

const (
	statusOK          status = iota
	statusNotFound           // no such key
	statusExists             // the CKA_ID is taken
	statusAmbiguous          // several keys of one name
	statusAttributes         // a key that must not be used
	statusMessage            // the message does not fit the key's purpose
	statusUnsupported        // the token lacks it
	statusNotHeld            // sign: find the key first
	statusPINRejected        // login failed, for whatever reason
	statusPINLocked          // login failed because the PIN is locked
	statusFault              // anything else; the generation must end
)

const (
	protocolVersion = 4
	headerSize      = 13
	maxFrame        = 16 << 20
	nameSize        = 16 + 32
)

// A keyName names a key between the processes: CKA_ID, then the SHA-256 of its
// SubjectPublicKeyInfo.
type keyName [nameSize]byte

func nameOf(id keystore.KeyID, spki []byte) keyName {
	var n keyName
	copy(n[:], id[:])
	hash := keystore.HashSPKI(spki)
	copy(n[len(id):], hash[:])
	return n
}

type frame struct {
	generation uint32
	id         uint32
	code       byte // a verb, or a status
	body       []byte
}

// errPartial says that the rest of the frame has not come yet.
var errPartial = errors.New("partial frame")

// appendHeader appends the header of a frame whose body has n bytes.
func appendHeader(b []byte, generation, id uint32, code byte, n int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(headerSize-4+n))
	b = binary.BigEndian.AppendUint32(b, generation)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, code)
}

func appendFrame(b []byte, f frame) []byte {
	return append(appendHeader(b, f.generation, f.id, f.code, len(f.body)), f.body...)
}

// parseFrame reads the first frame of b and returns how many bytes it takes.
// The frame's body is a part of b. The error is errPartial if b holds only the
// beginning of a frame, and another if b cannot begin a frame.
func parseFrame(b []byte) (f frame, n int, err error) {
	if len(b) < 4 {
		return frame{}, 0, errPartial
	}
	length := binary.BigEndian.Uint32(b)
	if length < headerSize-4 || length > maxFrame {
		return frame{}, 0, fmt.Errorf("a frame of %d bytes", length)
	}
	n = 4 + int(length)
	if len(b) < n {
		return frame{}, n, errPartial
	}
	return frame{
		generation: binary.BigEndian.Uint32(b[4:]),
		id:         binary.BigEndian.Uint32(b[8:]),
		code:       b[12],
		body:       b[headerSize:n:n],
	}, n, nil
}

// An inbox collects what was read until it is whole frames. It keeps nothing of
// those that were taken once fill is called: one of them may have held a PIN.
type inbox struct {
	buf        []byte
	start, end int // of the bytes not taken yet
}

// next takes the first whole frame, whose body stays valid until fill.
func (in *inbox) next() (frame, error) {
	f, n, err := parseFrame(in.buf[in.start:in.end])
	if err == nil {
		in.start += n
	}
	return f, err
}

// fill makes room for the frame that has begun and reads once.
func (in *inbox) fill(read func([]byte) (int, error)) error {
	if in.start > 0 {
		old := in.buf[:in.end]
		in.end = copy(in.buf, in.buf[in.start:in.end])
		in.start = 0
		clear(old[in.end:])
	}
	want := 64 << 10
	if _, n, err := parseFrame(in.buf[:in.end]); errors.Is(err, errPartial) && n > want {
		want = n
	}
	if want > len(in.buf) {
		old := in.buf[:in.end]
		in.buf = append(old[:in.end:in.end], make([]byte, want-in.end)...)
		clear(old)
	}
	n, err := read(in.buf[in.end:])
	in.end += n
	return err
}

// A tokenInfo is what a worker sees of a token before anyone logs in.
type tokenInfo struct {
	Serial       string `json:"serial"`
	Label        string `json:"label"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	FinalTry     bool   `json:"final_try,omitempty"`
	Locked       bool   `json:"locked,omitempty"`

	Algorithms []keystore.Algorithm `json:"algorithms,omitempty"` // what it can generate and sign with

	// How many workers may be started in a time; 0: as many as one likes.
	Starts int           `json:"starts,omitempty"`
	Within time.Duration `json:"within,omitempty"`
}

// The JSON bodies.
type (
	loginRequest struct {
		Token tokenInfo `json:"token"`
		Maker bool      `json:"maker,omitempty"` // it is to make keys
		Clerk bool      `json:"clerk,omitempty"` // it does not sign for callers
	}
	loginAnswer struct {
		Algorithms []keystore.Algorithm `json:"algorithms"`
	}
	// A keyRequest finds or generates.
	keyRequest struct {
		ID        keystore.KeyID     `json:"id"`
		Purpose   keystore.Purpose   `json:"purpose"`
		Algorithm keystore.Algorithm `json:"algorithm"`
	}
)

// loginBody is the JSON of r, a zero byte, and the PIN, which JSON never sees.
func loginBody(r, pin []byte) []byte {
	b := make([]byte, 0, len(r)+1+len(pin))
	b = append(b, r...)
	b = append(b, 0)
	return append(b, pin...)
}

// statusOf returns the status that stands for err, which a worker's own error
// or one of keystore's is.
func statusOf(err error) status {
	for _, k := range statusErrors {
		if errors.Is(err, k.err) {
			return k.status
		}
	}
	return statusFault
}

var statusErrors = []struct {
	status status
	err    error
}{
	{statusNotFound, keystore.ErrNotFound},
	{statusExists, keystore.ErrExists},
	{statusAmbiguous, keystore.ErrAmbiguous},
	{statusAttributes, keystore.ErrAttributes},
	{statusMessage, keystore.ErrMessage},
	{statusUnsupported, keystore.ErrUnsupported},
	{statusNotHeld, errNotHeld},
	{statusPINLocked, errPINLocked},
	{statusPINRejected, keystore.ErrPINRejected},
}

var (
	errNotHeld   = errors.New("key not held")
	errPINLocked = fmt.Errorf("%w: the token says that the PIN is locked", keystore.ErrPINRejected)
	errFault     = errors.New("token fault")
)

// An answerError is an error that came as an answer, or is given as one.
type answerError struct {
	kind error
	text string
}

func (e *answerError) Error() string { return e.text }
func (e *answerError) Unwrap() error { return e.kind }

// errorOf is the way back from statusOf.
func errorOf(s status, text []byte) error {
	if s == statusOK {
		return nil
	}
	for _, k := range statusErrors {
		if s == k.status {
			return &answerError{k.err, string(text)}
		}
	}
	return &answerError{errFault, string(text)}
}
