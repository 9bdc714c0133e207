package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"chancery/signer/policy"
)

// A Visitor is one connection, as the door knows it: which process connected,
// and who its certificate is under the Gate that was asked last. It may be used
// concurrently.
type Visitor struct {
	peer  string // for limits and for the log: an address without its port, or a uid
	unix  *policy.Unix
	known atomic.Pointer[identity]
}

// VisitorOf returns the Visitor of a connection that a Door accepted, whatever
// TLS is around it. Another connection's is made anew, and is to be kept for as
// long as the connection.
func VisitorOf(c net.Conn) *Visitor {
	for {
		switch v := c.(type) {
		case *countedConn:
			if v.visitor != nil {
				return v.visitor
			}
			c = v.Conn
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return newVisitor(c)
		}
	}
}

// UnixOf returns the user and group of the process that connected, or nil where
// that was not by a Unix socket. Passing the connection on, or inheriting it,
// changes neither: they are those of the connect (unix(7), SO_PEERCRED). What the
// system does not tell is nobody's uid, the largest number.
func UnixOf(c net.Conn) *policy.Unix { return VisitorOf(c).Unix() }

// Unix is UnixOf, asked of the system once.
func (v *Visitor) Unix() *policy.Unix { return v.unix }

// Identify is Gate.Identify with what is known of the connection. What cannot
// change under one gate is worked out once; expiry, revocation and the life of the
// anchors are looked at each time.
func (v *Visitor) Identify(g *Gate, cs *tls.ConnectionState, now time.Time) (policy.Caller, error) {
	who, _, err := v.identity(g, cs).at(now)
	return who, err
}

func (v *Visitor) identity(g *Gate, cs *tls.ConnectionState) *identity {
	if id := v.known.Load(); id != nil && id.isOf(g, cs) {
		return id
	}
	id := g.study(cs, v.unix)
	v.known.Store(id)
	return id
}

func newVisitor(c net.Conn) *Visitor {
	v := &Visitor{peer: "unknown"}
	if uc, ok := c.(*net.UnixConn); ok {
		v.unix = credentials(uc)
		if v.unix.UID != math.MaxUint32 {
			v.peer = "uid " + strconv.FormatUint(uint64(v.unix.UID), 10)
		}
		return v
	}
	if host, _, err := net.SplitHostPort(c.RemoteAddr().String()); err == nil {
		v.peer = host
	}
	return v
}

// credentials asks the system who connected.
func credentials(c *net.UnixConn) *policy.Unix {
	u := &policy.Unix{UID: math.MaxUint32, GID: math.MaxUint32} // (uid_t)-1, which nobody has
	raw, err := c.SyscallConn()
	if err != nil {
		return u
	}
	_ = raw.Control(func(fd uintptr) { // an error leaves u nobody
		if cred, err := unix.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			u.UID, u.GID = cred.Uid, cred.Gid
		}
	})
	return u
}

// peerOf names who connected, for limits and for the log. It is not an identity.
func peerOf(c net.Conn) string { return newVisitor(c).peer }

type visitorKey struct{}

// withVisitor has the requests of a connection find its Visitor.
func withVisitor(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, visitorKey{}, VisitorOf(c))
}

func visitorOf(ctx context.Context) *Visitor {
	if v, ok := ctx.Value(visitorKey{}).(*Visitor); ok {
		return v
	}
	return new(Visitor) // no connection of a door's
}

// notAdmitted is who may not connect to a door, whatever they hold.
type notAdmitted struct{ who policy.Unix }

func (e *notAdmitted) Error() string {
	return fmt.Sprintf("uid %d with gid %d may not connect", e.who.UID, e.who.GID)
}
