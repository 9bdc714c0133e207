package pkcs11

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"chancery/keystore"
)

// A sheaf is several messages for one key in one frame, and its answer their
// signatures in one. What belongs to a message stands in both at the same place:
//
//	request: the key's name, then for each message its length (4 bytes) and the message
//	answer:  for each message a status (1 byte), a length (4 bytes), and the signature or why there is none
//
// A fault is no message's own: it is the answer to the whole frame, and ends the
// generation as any other.

// maxSheaf is how many messages one frame holds: what a signing thread takes at a
// time.
const maxSheaf = maxBatch

// errSheaf: the worker's answer is not one to what was asked.
var errSheaf = errors.New("the answer does not fit the messages")

// appendMessage appends one message to the body of a request.
func appendMessage(b, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(message))), message...)
}

// nextMessage takes the first message off the rest of a request's body. It returns
// false if that is no message.
func nextMessage(rest []byte) (message, after []byte, ok bool) {
	if len(rest) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if uint64(n) > uint64(len(rest)) {
		return nil, nil, false
	}
	return rest[:n:n], rest[n:], true
}

// appendOutcome appends what became of one message to the body of an answer.
func appendOutcome(b, sig []byte, err error) []byte {
	s, body := statusOK, sig
	if err != nil {
		s, body = statusOf(err), []byte(err.Error())
	}
	return appendMessage(append(b, byte(s)), body)
}

// parseOutcomes reads the body of an answer to n messages. The signatures are
// parts of body. It returns errSheaf if body says anything else than what became
// of each.
func parseOutcomes(body []byte, n int) (sigs [][]byte, errs []error, err error) {
	sigs, errs = make([][]byte, n), make([]error, n)
	for i := range n {
		if len(body) == 0 {
			return nil, nil, errSheaf
		}
		s := status(body[0])
		text, rest, ok := nextMessage(body[1:])
		if !ok || s == statusFault || s > statusFault {
			return nil, nil, errSheaf
		}
		if errs[i] = errorOf(s, text); errs[i] == nil {
			sigs[i] = text
		}
		body = rest
	}
	if len(body) > 0 {
		return nil, nil, errSheaf
	}
	return sigs, errs, nil
}

// signSheaf answers a request of several messages. The error is a fault.
func (l *lane) signSheaf(m *module, k *heldKey, rest []byte) (answer []byte, err error) {
	for n := 0; len(rest) > 0; n++ {
		message, after, ok := nextMessage(rest)
		if !ok || n == maxSheaf {
			return nil, errOrder
		}
		sig, err := l.sign(m, k, message)
		if err != nil && statusOf(err) == statusFault {
			return nil, fmt.Errorf("message %d: %w", n, err)
		}
		answer, rest = appendOutcome(answer, sig, err), after
	}
	return slices.Clip(answer), nil
}

// sheafSize returns how many messages of an algorithm one frame holds: few where
// each takes long, so that the others have their turn.
func sheafSize(alg keystore.Algorithm) int {
	if alg.IsRSA() {
		return 1
	}
	return maxSheaf
}
