// Package server opens the doors: the signing and the ops listener behind
// mutual TLS 1.3, the public listener that publishes key sets, and the admin
// listener that says how the daemon is.
//
// A Door accepts connections, shakes hands with a deadline, reports every
// failed handshake, and hands each connection to the protocol ALPN chose. A
// Guard turns the certificate of each request into a principal: expiry,
// revocation and anchors are looked at per request, so a resumed or long-lived
// connection has no privilege. Routes are data; errors are problem documents
// (RFC 9457).
//
// A Visitor is one connection. Its user and group are those of the process that
// connected (unix(7), SO_PEERCRED), read once: a child that inherits the
// connection, or a program it is passed to, speaks for the connector. They are
// facts beside the certificate and never an identity, and a process ID, which is
// used again, is neither. A Gate can admit listed users and groups alone.
//
// What is published is a Publication, an immutable snapshot swapped as a
// whole: a reader sees the old one or the new one.
package server
