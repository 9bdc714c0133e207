package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chancery/signer/api"
	"chancery/signer/client"
)

// The roles a dev directory has certificates for.
const (
	roleIssuer   = "issuer"
	roleCA       = "ca"
	roleOperator = "operator"
	roleAuditor  = "auditor"
)

var roles = []string{roleIssuer, roleCA, roleOperator, roleAuditor}

// A connection is a client and what it was made of, for the hints.
type connection struct {
	client   *client.Client
	endpoint string
	role     string // empty: not from a directory
}

// errNotRunning: the directory has no endpoints. A daemon that starts has none
// either, for as long as its doors are shut.
var errNotRunning = errors.New("the daemon is not running, or not ready yet")

// connect returns a client for the global flags. role is who asks unless --as
// says otherwise; operators and auditors have a socket of their own.
func (a *app) connect(role string) (*client.Client, error) {
	if a.connected != nil {
		return a.connected.client, nil
	}
	cfg, conn, err := a.settings(role)
	if err != nil {
		return nil, err
	}
	cfg.OnReply = func(body []byte) { a.reply = append(a.reply[:0], body...) }
	c, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	conn.client = c.Patient(a.wait)
	a.connected = conn
	return conn.client, nil
}

// settings finds endpoint and credentials: those of --dir, or else flags before
// environment.
func (a *app) settings(role string) (client.Config, *connection, error) {
	if a.as != "" && !slices.Contains(roles, a.as) {
		return client.Config{}, nil, usagef("--as %s: there are %s", a.as, strings.Join(roles, ", "))
	}
	if a.dir == "" {
		return a.explicit()
	}
	if a.endpoint != "" || a.cert != "" || a.key != "" || a.ca != "" || a.serverName != "" {
		return client.Config{}, nil, usagef("--dir says where everything is: leave out --endpoint, --cert, --key, --ca and --server-name")
	}
	if a.as != "" {
		role = a.as
	}
	ends, err := a.endpoints()
	if err != nil {
		return client.Config{}, nil, err
	}
	socket := ends.Socket
	if role == roleOperator || role == roleAuditor {
		socket = ends.Ops
	}
	stem := filepath.Join(a.dir, "clients", role)
	cfg, err := client.LoadConfig("unix:"+socket, stem+".crt", stem+".key", filepath.Join(a.dir, "ca.crt"))
	return cfg, &connection{endpoint: socket, role: role}, err
}

func (a *app) explicit() (client.Config, *connection, error) {
	if a.as != "" {
		return client.Config{}, nil, usagef("--as chooses a certificate of --dir: with --cert there is nothing to choose")
	}
	var missing []string
	value := func(flag, name, env string) string {
		if flag != "" {
			return flag
		}
		v := a.getenv(env)
		if v == "" {
			missing = append(missing, fmt.Sprintf("--%s or %s", name, env))
		}
		return v
	}
	endpoint := value(a.endpoint, "endpoint", "CHANCERY_ENDPOINT")
	cert, key := value(a.cert, "cert", "CHANCERY_CERT"), value(a.key, "key", "CHANCERY_KEY")
	ca := value(a.ca, "ca", "CHANCERY_CA")
	if len(missing) > 0 {
		return client.Config{}, nil, usagef("which daemon? --dir DIR, or give %s", strings.Join(missing, ", "))
	}
	cfg, err := client.LoadConfig(endpoint, cert, key, ca)
	cfg.ServerName = cmp.Or(a.serverName, a.getenv("CHANCERY_SERVER_NAME"))
	return cfg, &connection{endpoint: endpoint}, err
}

// endpoints reads DIR/endpoints.json. Sockets with relative paths are in DIR.
func (a *app) endpoints() (api.Endpoints, error) {
	var ends api.Endpoints
	path := filepath.Join(a.dir, "endpoints.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ends, fmt.Errorf("%w: there is no %s", errNotRunning, path)
	}
	if err != nil {
		return ends, err
	}
	if err := json.Unmarshal(data, &ends); err != nil {
		return ends, fmt.Errorf("reading %s: %w", path, err)
	}
	for _, socket := range []*string{&ends.Socket, &ends.Ops} {
		if *socket != "" && !filepath.IsAbs(*socket) {
			*socket = filepath.Join(a.dir, *socket)
		}
	}
	return ends, nil
}
