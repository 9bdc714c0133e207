package config

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// MaxSocket is how long the path of a Unix socket may be, in bytes (unix(7):
// sun_path with its terminating zero).
const MaxSocket = 107

// soon is how long before a certificate expires that is worth a warning.
const soon = 7 * 24 * time.Hour

func (k checker) listeners() {
	l := k.Listeners
	taken := make(map[string]string) // address → the member that has it
	k.guarded("listeners.signing", l.Signing, taken)
	k.guarded("listeners.ops", l.Ops, taken)
	k.door("listeners.signing", l.Signing.Limits)
	k.door("listeners.ops", l.Ops.Limits)
	k.door("listeners.public", l.Public.Limits)

	if l.Public.TCP != "" {
		k.tcp("listeners.public.tcp", l.Public.TCP, taken)
		if l.Public.Certificate == "" && !isLoopbackAddress(l.Public.TCP) {
			k.errorf("listeners.public.tcp", "add certificate and key, or listen on 127.0.0.1 behind a proxy", "without TLS it may only be on loopback")
		}
	}
	k.pair("listeners.public", l.Public.Certificate, l.Public.Key, "")

	switch {
	case l.Admin.Socket != "" && l.Admin.TCP != "":
		k.errorf("listeners.admin", "", "it is either on a socket or on TCP")
	case l.Admin.Socket != "":
		k.socket("listeners.admin.socket", l.Admin.Socket, taken)
	case l.Admin.TCP != "":
		k.tcp("listeners.admin.tcp", l.Admin.TCP, taken)
		if !isLoopbackAddress(l.Admin.TCP) {
			k.errorf("listeners.admin.tcp", "127.0.0.1, or a socket", "it knows no principals, so it may only be on loopback")
		}
	case k.has("listeners.admin"):
		k.errorf("listeners.admin", "", "it has neither socket nor tcp")
	}
}

func (k checker) guarded(path string, g Guarded, taken map[string]string) {
	if !k.has(path) {
		return // missing: said already
	}
	if g.Socket == "" && g.TCP == "" {
		k.errorf(path, "", "it has neither socket nor tcp")
	}
	if g.Socket != "" {
		k.socket(path+".socket", g.Socket, taken)
	}
	if g.TCP != "" {
		k.tcp(path+".tcp", g.TCP, taken)
	}
	k.users(path, g)
	if path == "listeners.ops" && !k.has(path+".certificate") && !k.has(path+".key") {
		return // the signing listener's pair: looked at there
	}
	if g.Certificate == "" && g.Key == "" {
		k.errorf(path, "", "certificate and key are missing")
		return
	}
	k.pair(path, g.Certificate, g.Key, g.ServerName)
}

func (k checker) socket(path, socket string, taken map[string]string) {
	if len(socket) > MaxSocket {
		k.errorf(path, "a shorter directory, such as /run/chancery", "the path has %d bytes, and a Unix socket's has at most %d", len(socket), MaxSocket)
	}
	k.take(path, filepath.Clean(socket), taken)
}

func (k checker) tcp(path, address string, taken map[string]string) {
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host == "" || net.ParseIP(host) == nil && host != "localhost" {
		k.errorf(path, "127.0.0.1:8443, [::]:8443", "%.80q is not ADDRESS:PORT", address)
		return
	}
	if n != 0 { // 0: the system chooses
		k.take(path, address, taken)
	}
}

func (k checker) take(path, address string, taken map[string]string) {
	if other := taken[address]; other != "" {
		k.errorf(path, "", "%s has the same address", other)
		return
	}
	taken[address] = path
}

// pair checks a certificate and its key; where serverName is given the
// certificate must hold it.
func (k checker) pair(path, cert, key, serverName string) {
	if cert == "" && key == "" {
		return
	}
	if cert == "" || key == "" {
		k.errorf(path, "", "certificate and key go together")
		return
	}
	certPath, keyPath := path+".certificate", path+".key"
	keyErr := checkSecret(key, 0o027)
	if keyErr != nil {
		k.errorf(keyPath, "", "%v", keyErr)
	}
	_, certErr := os.Stat(cert)
	if certErr != nil {
		k.errorf(certPath, "", "%v", reason(certErr))
	}
	if keyErr != nil || certErr != nil {
		return
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		k.errorf(certPath, "", "%v", reason(err))
		return
	}
	k.validity(certPath, pair.Leaf)
	if serverName == "" {
		return
	}
	if err := pair.Leaf.VerifyHostname(serverName); err != nil {
		k.errorf(certPath, "clients ask for server_name", "the certificate is not for %.80q", serverName)
	}
}

func (k checker) validity(path string, cert *x509.Certificate) {
	switch {
	case k.now.After(cert.NotAfter):
		k.errorf(path, "", "the certificate expired on %s", cert.NotAfter.UTC().Format(time.DateTime))
	case k.now.Before(cert.NotBefore):
		k.errorf(path, "", "the certificate is not valid before %s", cert.NotBefore.UTC().Format(time.DateTime))
	case cert.NotAfter.Sub(k.now) < soon:
		k.warnf(path, "renew it", "the certificate expires on %s", cert.NotAfter.UTC().Format(time.DateTime))
	}
}

func isLoopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && isLoopback(host)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
