package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"chancery/cmd/internal/config/document"
	"chancery/keystore/pkcs11"
	"chancery/keystore/transit"
)

// A Keystore is where private keys are: one of PKCS11 and Transit, the other is
// nil.
type Keystore struct {
	Name    string   `yaml:"-"`
	PKCS11  *PKCS11  `yaml:"pkcs11"`
	Transit *Transit `yaml:"transit"`
}

// PKCS11 is a token behind a PKCS#11 module.
type PKCS11 struct {
	Module string            `yaml:"module,required"`
	Token  string            `yaml:"token,required"` // an RFC 7512 URI
	Env    map[string]string `yaml:"env"`            // of the worker processes

	// Workers is how many processes sign with the token; 0: 2.
	Workers int `yaml:"workers"`

	// Verify is which signatures are verified before their callers get them; empty:
	// all.
	Verify pkcs11.Verify `yaml:"verify"`

	Confine Confine `yaml:"confine"`
}

// Confine is what the module may do beyond what every module needs.
type Confine struct {
	Read    []string `yaml:"read"`
	Write   []string `yaml:"write"`
	Network bool     `yaml:"network"`
	Exec    bool     `yaml:"exec"`
	Off     bool     `yaml:"off"`
}

// Transit is a Transit engine of a Vault.
type Transit struct {
	Addresses   []string `yaml:"addresses,required"` // of one cluster
	Mount       string   `yaml:"mount"`
	Namespace   string   `yaml:"namespace"`
	CA          string   `yaml:"ca"`
	ServerName  string   `yaml:"server_name"`
	Certificate string   `yaml:"certificate"`
	Key         string   `yaml:"key"`
	RSABits     int      `yaml:"rsa_bits"` // 0: keystore.RSABits
	Auth        Auth     `yaml:"auth,required"`
}

// Auth is how a Vault is told who is there.
type Auth struct {
	Method string `yaml:"method,required"`
	Mount  string `yaml:"mount"` // absent: the method's name
	Role   string `yaml:"role"`
	RoleID string `yaml:"role_id"`
	File   string `yaml:"file"` // the token, the secret ID or the JWT
}

// TransitConfig returns what the file says of a keystore in a Vault, as package
// transit takes it.
func (k Keystore) TransitConfig() transit.Config {
	t := k.Transit
	if t == nil {
		return transit.Config{}
	}
	return transit.Config{
		Name: k.Name, Addresses: t.Addresses, Mount: t.Mount, Namespace: t.Namespace, RSABits: t.RSABits,
		TLS: transit.TLS{CA: t.CA, ServerName: t.ServerName, Certificate: t.Certificate, Key: t.Key},
		Auth: transit.Auth{
			Method: transit.Method(t.Auth.Method), Mount: t.Auth.Mount, Role: t.Auth.Role, RoleID: t.Auth.RoleID, File: t.Auth.File,
		},
	}
}

func (k Keystore) equal(o Keystore) bool { return reflect.DeepEqual(k, o) }

// fill puts in what was not said, and makes paths absolute.
func (k *Keystore) fill(name, dir string) {
	k.Name = name
	if p := k.PKCS11; p != nil {
		absolute(&p.Module, dir)
	}
	t := k.Transit
	if t == nil {
		return
	}
	t.Mount = cmp.Or(t.Mount, transit.DefaultMount)
	if t.Auth.Method == string(transit.MethodKubernetes) {
		t.Auth.File = cmp.Or(t.Auth.File, transit.KubernetesToken)
	}
	for _, file := range []*string{&t.CA, &t.Certificate, &t.Key, &t.Auth.File} {
		absolute(file, dir)
	}
}

func (k checker) keystores() {
	if len(k.Keystores) == 0 && k.has("keystores") && !k.said("keystores") {
		k.errorf("keystores", "", "there is no keystore")
	}
	tokens, mounts := make(map[string]string), make(map[string]string)
	for _, n := range sorted(k.Keystores) {
		path, ks := join("keystores", n), k.Keystores[n]
		if !document.IsName(n) {
			k.errorf(path, document.NameHint, "%q is no name", n)
		}
		switch isPKCS11, isTransit := k.has(path+".pkcs11"), k.has(path+".transit"); {
		case isPKCS11 && isTransit:
			k.errorf(path, "make two keystores of it", "it is either a token, pkcs11, or in a Vault, transit")
		case !isPKCS11 && !isTransit && !k.said(path):
			k.errorf(path, "pkcs11: {module: …, token: …}, or transit: {addresses: […], auth: {…}}", "it has neither pkcs11 nor transit")
		}
		if ks.PKCS11 != nil {
			k.pkcs11(n, path+".pkcs11", ks.PKCS11, tokens)
		}
		if ks.Transit != nil {
			k.transit(path+".transit", ks, mounts)
		}
	}
}

// pkcs11 checks a token; tokens are those of other keystores.
func (k checker) pkcs11(n, path string, p *PKCS11, tokens map[string]string) {
	if p.Module != "" {
		if err := checkModule(p.Module); err != nil {
			hint := "a PKCS#11 module is code the daemon runs: it belongs to root, and nobody else writes it"
			if errors.Is(err, fs.ErrNotExist) {
				hint = "the path of the vendor's PKCS#11 library; SoftHSM's is libsofthsm2.so"
			}
			k.errorf(path+".module", hint, "%v", err)
		}
	}
	k.token(path+".token", p.Token)
	if other := tokens[p.Token]; other != "" && p.Token != "" {
		k.errorf(path+".token", "one keystore for each token", "keystore %s has the same token", other)
	}
	tokens[p.Token] = n
	k.confine(path+".confine", p.Confine)
	if p.Workers < 0 || p.Workers > pkcs11.MaxWorkers {
		k.errorf(path+".workers", "", "%d workers: want 1 to %d", p.Workers, pkcs11.MaxWorkers)
	}
	switch p.Verify {
	case "", pkcs11.VerifyAll:
	case pkcs11.VerifySampled:
		k.warnf(path+".verify", "verify: all, unless this token's rate is worth it", "a wrong signature by this token can leave before it is noticed: one of sixteen is verified")
	default:
		k.errorf(path+".verify", "all, or sampled", "%q is no way to verify signatures", p.Verify)
	}
	for _, v := range sorted(p.Env) {
		if !environment.MatchString(v) || pkcs11.RefusedVariable(v) {
			k.errorf(join(path+".env", v), "", "%q is no environment variable for a worker", v)
		}
	}
}

func (k checker) confine(path string, c Confine) {
	for kind, list := range map[string][]string{"read": c.Read, "write": c.Write} {
		for i, file := range list {
			if !filepath.IsAbs(file) || filepath.Clean(file) == "/" {
				k.errorf(fmt.Sprintf("%s.%s[%d]", path, kind, i), "an absolute path of what the module uses, as narrow as may be", "%q is no path for a module", file)
			}
		}
	}
	if c.Off && (c.Network || c.Exec || len(c.Read)+len(c.Write) > 0) {
		k.errorf(path+".off", "", "off confines nothing, so that the rest says nothing")
	}
}

var environment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (k checker) token(path, uri string) {
	if uri == "" {
		return
	}
	u, err := pkcs11.ParseURI(uri)
	if err != nil {
		text, hint := splitHint(err.Error())
		k.errorf(path, cmp.Or(hint, "pkcs11:serial=…?pin-source=file:/…"), "%s", text)
		return
	}
	if u.PINFile == "" {
		return // a credential or a descriptor: whether it can be read is seen at the start
	}
	if err := checkSecret(u.PINFile, 0o077); err != nil {
		k.errorf(path, "", "PIN file: %v", err)
	}
}

// transit asks package transit, and then looks at the files; mounts are those of
// other keystores.
func (k checker) transit(path string, ks Keystore, mounts map[string]string) {
	cfg := ks.TransitConfig()
	if err := cfg.Check(); err != nil {
		for _, e := range split(err) {
			k.transitFault(path, e)
		}
	}
	k.oneForEachMount(path, ks, mounts)
	t := ks.Transit
	if t.CA != "" {
		if _, err := readCertificates(t.CA); err != nil {
			k.errorf(path+".ca", "the certificates of those who issue the servers', in PEM", "%v", err)
		}
	}
	if t.Certificate != "" && t.Key != "" {
		k.pair(path, t.Certificate, t.Key, "")
	}
	if t.Auth.File != "" && t.Auth.Method != string(transit.MethodCert) {
		k.login(path+".auth.file", t.Auth)
	}
}

// login checks the file by which a Vault knows us. A token or a secret ID lasts,
// and nobody else may read it; a JWT is short-lived and its file often another
// program's, which at least nobody else may write.
func (k checker) login(path string, a Auth) {
	forbidden := fs.FileMode(0o077)
	if m := transit.Method(a.Method); m == transit.MethodKubernetes || m == transit.MethodJWT {
		forbidden = 0o022
	}
	hint := ""
	if a.File == transit.KubernetesToken && !k.has(path) {
		hint = "where a pod finds its service account's token; or say file"
	}
	switch err := checkSecret(a.File, forbidden); {
	case errors.Is(err, fs.ErrNotExist) && hint == "": // whoever writes it may be late
		k.warnf(path, "until it is there, the keystore's state is auth_rejected", "%v", err)
	case err != nil:
		k.errorf(path, hint, "%v", err)
	}
}

// oneForEachMount refuses two keystores that would share keys. A server of a
// cluster knows all of it, and a namespace is the beginning of a mount's path.
func (k checker) oneForEachMount(at string, ks Keystore, mounts map[string]string) {
	taken := ""
	for _, address := range ks.Transit.Addresses {
		mount := address + " " + strings.TrimPrefix(ks.Transit.Namespace+"/"+ks.Transit.Mount, "/")
		switch other := mounts[mount]; {
		case address == "": // said already
		case other == "":
			mounts[mount] = ks.Name
		case other != ks.Name:
			taken = other
		}
	}
	if taken != "" {
		k.errorf(at+".mount", "one keystore for each mount", "keystore %s has the same mount", taken)
	}
}

// transitFault says at our member what package transit found, if nothing has
// been said of it or of what it follows from.
func (k checker) transitFault(path string, err error) {
	fault, ok := errors.AsType[*transit.Fault](err)
	if !ok {
		k.errorf(path, "", "%v", err)
		return
	}
	at := path + "." + fault.Path
	pair := fault.Path == "certificate" || fault.Path == "auth.method"
	required := []string{"addresses", "auth.method"}
	switch {
	case k.Unread[at], pair && (k.Unread[path+".certificate"] || k.Unread[path+".key"]):
	case slices.Contains(required, fault.Path) && !k.has(at):
	default:
		k.errorf(at, fault.Hint, "%s", fault.Text)
	}
}
