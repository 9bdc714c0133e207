package transit

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
)

// A Config says which Vault, which mount of it, and who Chancery is to it.
type Config struct {
	Name string // of the keystore, for states and files
	// Addresses are URLs of servers of one cluster, https://HOST[:PORT]; http only on
	// loopback. The one that answered last is asked first, at the start the first.
	Addresses []string
	Mount     string // of the Transit engine, which belongs to Chancery alone; "": DefaultMount
	Namespace string // "": the root namespace
	TLS       TLS
	Auth      Auth
	RSABits   int // of the RSA keys it makes: 2048, 3072 or 4096; 0: keystore.RSABits

	StateDir  string           // for the mount's identity; made with mode 0700 if absent; "": it is not kept
	Log       *slog.Logger     // nil: nothing is logged
	Now       func() time.Time // nil: time.Now
	Deadlines Deadlines
	OnState   func(keystore.TokenStatus) // called at each change, one after the other; it must not wait
	// OnChange is called when a key that is open is not what it was, such as when
	// somebody else has rotated or configured it; it must not wait. Nil: nobody is told.
	OnChange func()
	Waiting  int // how many may wait for one key before others are refused; 0: DefaultWaiting
}

// TLS is how the servers are known, and how Chancery is known to them.
type TLS struct {
	CA          string // file of PEM certificates; "": the system's
	ServerName  string // "": the address's host
	Certificate string // client certificate and its key, files; both or neither
	Key         string
}

// A Method is how Chancery logs in.
type Method string

// The methods. Each but MethodToken has an auth mount of the same name unless
// Auth.Mount says another.
const (
	MethodToken      Method = "token"      // a token from a file, read anew when that changes
	MethodAppRole    Method = "approle"    // RoleID, and a secret ID from a file
	MethodCert       Method = "cert"       // TLS.Certificate
	MethodKubernetes Method = "kubernetes" // Role, and the service account's token from a file
	MethodJWT        Method = "jwt"        // Role, and a JWT from a file
)

// Auth is how Chancery logs in. Files are read at each login, so that they may
// be replaced; surrounding white space does not count.
type Auth struct {
	Method Method
	Mount  string // of the auth method; "": its name
	Role   string // cert (may be empty), kubernetes, jwt
	RoleID string // approle
	File   string // token, approle (the secret ID; "": none), kubernetes, jwt
}

// What holds where a Config says nothing.
const (
	DefaultMount   = "transit"
	DefaultWaiting = 1024
	// KubernetesToken is where a pod finds its service account's token.
	KubernetesToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// Deadlines are how long one request to Vault may take. Zero values stand for
// the defaults. The end of a caller's context ends what only that caller wants.
type Deadlines struct {
	Sign   time.Duration // 2 s
	Read   time.Duration // reading one key, 5 s
	List   time.Duration // listing the keys, 30 s
	Create time.Duration // making a key, configuring it, deleting it, 30 s
	Login  time.Duration // logging in or renewing, 5 s
	Health time.Duration // 1 s
}

func (d Deadlines) withDefaults() Deadlines {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&d.Sign, 2 * time.Second}, {&d.Read, 5 * time.Second}, {&d.List, 30 * time.Second},
		{&d.Create, 30 * time.Second}, {&d.Login, 5 * time.Second}, {&d.Health, time.Second},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return d
}

// A Fault is what is wrong with one member of a Config.
type Fault struct {
	Path string // as in the configuration file: "addresses[1]", "auth.role"
	Text string
	Hint string // the next move, or empty
}

func (f *Fault) Error() string {
	if f.Hint == "" {
		return f.Path + ": " + f.Text
	}
	return f.Path + ": " + f.Text + " (hint: " + f.Hint + ")"
}

// Check returns nil, or what is wrong with c as *Fault errors joined. It reads no
// file and reaches no server.
func (c *Config) Check() error {
	var faults []error
	fault := func(path, hint, format string, args ...any) {
		faults = append(faults, &Fault{path, fmt.Sprintf(format, args...), hint})
	}
	if len(c.Addresses) == 0 {
		fault("addresses", "https://vault.example.com:8200", "there is no address")
	}
	for i, a := range c.Addresses {
		where := fmt.Sprintf("addresses[%d]", i)
		if err := checkAddress(a); err != nil {
			fault(where, "https://vault.example.com:8200", "%v", err)
		}
		if slices.Contains(c.Addresses[:i], a) {
			fault(where, "", "it is there already")
		}
	}
	if c.Mount != "" && !goodPath.MatchString(c.Mount) {
		fault("mount", "the path it was enabled at, without slashes around it: transit", "%.80q is no mount", c.Mount)
	}
	if c.Namespace != "" && !goodPath.MatchString(c.Namespace) {
		fault("namespace", "its path without slashes around it: team/prod", "%.80q is no namespace", c.Namespace)
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		fault("certificate", "name both files", "a certificate and its key belong together")
	}
	if c.RSABits != 0 && c.RSABits != 2048 && c.RSABits != 3072 && c.RSABits != 4096 {
		fault("rsa_bits", "2048, 3072 or 4096", "%d is no size of RSA keys", c.RSABits)
	}
	c.Auth.check(c.TLS, fault)
	return errors.Join(faults...)
}

// goodPath is a mount or namespace in the one spelling that goes into request
// paths as it is.
var goodPath = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,7}$`)

func checkAddress(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.Opaque != "":
		return fmt.Errorf("%.80q is no https URL", s)
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "", strings.HasSuffix(s, "#"):
		return errors.New("an address has no user, query or fragment")
	case u.Path != "" && u.Path != path.Clean(u.Path), strings.HasSuffix(u.Path, "/"), u.String() != s:
		return errors.New("the address is not in its canonical spelling")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("a token would go over the network unprotected: http is for loopback only")
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func (a *Auth) check(tls TLS, fault func(path, hint, format string, args ...any)) {
	need := func(member, value string) {
		if value == "" {
			fault("auth."+member, "", "method %s needs it", a.Method)
		}
	}
	unused := func(member, value string) {
		if value != "" {
			fault("auth."+member, "remove it", "method %s has no use for it", a.Method)
		}
	}
	switch a.Method {
	case MethodToken:
		need("file", a.File)
		unused("role", a.Role)
		unused("role_id", a.RoleID)
		unused("mount", a.Mount)
	case MethodAppRole:
		need("role_id", a.RoleID)
		unused("role", a.Role)
	case MethodCert:
		if tls.Certificate == "" {
			fault("auth.method", "say certificate and key", "method cert needs a client certificate")
		}
		unused("role_id", a.RoleID)
		unused("file", a.File)
	case MethodKubernetes:
		need("role", a.Role)
		unused("role_id", a.RoleID)
	case MethodJWT:
		need("role", a.Role)
		need("file", a.File)
		unused("role_id", a.RoleID)
	default:
		fault("auth.method", "token, approle, cert, kubernetes or jwt", "%.40q is no way to log in", string(a.Method))
	}
	if a.Mount != "" && !goodPath.MatchString(a.Mount) {
		fault("auth.mount", "the path it was enabled at, without slashes around it: approle", "%.80q is no mount", a.Mount)
	}
}
