package catalog

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A location is what the URL of a database says.
type location struct {
	user, database string
	hosts, ports   []string
	tls            map[string]string // sslmode and the files it needs
}

const urlHint = "(hint: postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full)"

// parsePostgresURL reads the URL of Postgres. Its errors quote no more of it than
// names of parameters and hosts: what was written in a wrong place may be a
// password.
func parsePostgresURL(text string) (*location, error) {
	rest, ok := strings.CutPrefix(text, "postgres://")
	if !ok {
		rest, ok = strings.CutPrefix(text, "postgresql://")
	}
	if !ok {
		return nil, errors.New("the URL of the database does not begin with postgres:// " + urlHint)
	}
	rest, query, _ := strings.Cut(rest, "?")
	user, rest, ok := strings.Cut(rest, "@")
	hosts, database, slash := strings.Cut(rest, "/")
	l := &location{tls: make(map[string]string)}
	var err error
	switch {
	case !ok || user == "":
		return nil, errors.New("the URL of the database names no user " + urlHint)
	case strings.Contains(user, ":") || strings.Contains(hosts, "@") || strings.Contains(database, "@"):
		return nil, errors.New("the URL of the database holds a password, which others would read with the configuration " +
			"(hint: write it into a file that only chanceryd can read, and name that file)")
	case !slash || database == "" || strings.Contains(database, "/"):
		return nil, errors.New("the URL of the database names no database " + urlHint)
	}
	if l.user, err = url.PathUnescape(user); err != nil {
		return nil, errors.New("the user in the URL of the database is badly escaped")
	}
	if l.database, err = url.PathUnescape(database); err != nil {
		return nil, errors.New("the database in the URL of the database is badly escaped")
	}
	if err := l.parameters(query, &hosts); err != nil {
		return nil, err
	}
	if err := l.addHosts(hosts); err != nil {
		return nil, err
	}
	return l, l.checkTLS()
}

func (l *location) parameters(query string, hosts *string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the parameters in the URL of the database are badly escaped")
	}
	for name, list := range values {
		if len(list) != 1 {
			return fmt.Errorf("the URL of the database has the parameter %q twice", name)
		}
		switch name {
		case "sslmode", "sslrootcert", "sslcert", "sslkey":
			l.tls[name] = list[0]
		case "host":
			if *hosts != "" {
				return errors.New("the URL of the database has hosts in two places")
			}
			*hosts = list[0]
		case "target_session_attrs":
			if list[0] != "read-write" {
				return errors.New("the catalog is written: target_session_attrs is read-write")
			}
		case "port":
			l.ports = strings.Split(list[0], ",")
		default:
			return fmt.Errorf("the URL of the database has the parameter %q, which is none of "+
				"sslmode, sslrootcert, sslcert, sslkey, host, port, target_session_attrs", name)
		}
	}
	return nil
}

func (l *location) addHosts(list string) error {
	given := l.ports
	l.ports = nil
	for i, host := range strings.Split(list, ",") {
		port := "5432"
		if len(given) == 1 {
			port = given[0]
		} else if i < len(given) {
			port = given[i]
		}
		if !strings.HasPrefix(host, "/") {
			if at := strings.LastIndexByte(host, ':'); at >= 0 && at > strings.LastIndexByte(host, ']') {
				host, port = host[:at], host[at+1:]
			}
			host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("the URL of the database has a port that is none")
		}
		if host == "" || strings.ContainsAny(host, "'\\ ") {
			return errors.New("the URL of the database names no host " + urlHint)
		}
		l.hosts, l.ports = append(l.hosts, host), append(l.ports, port)
	}
	if len(given) > 1 && len(given) != len(l.hosts) {
		return errors.New("the URL of the database has another number of ports than of hosts")
	}
	return nil
}

// near reports whether every host is this machine.
func (l *location) near() bool {
	return !slices.ContainsFunc(l.hosts, func(host string) bool {
		ip := net.ParseIP(host)
		return !strings.HasPrefix(host, "/") && host != "localhost" && (ip == nil || !ip.IsLoopback())
	})
}

func (l *location) checkTLS() error {
	mode, said := l.tls["sslmode"]
	switch {
	case !said && l.near():
		l.tls["sslmode"] = "prefer"
	case !said:
		l.tls["sslmode"] = "verify-full"
	case slices.Contains([]string{"disable", "allow", "prefer"}, mode) && !l.near():
		return fmt.Errorf("sslmode=%s lets anybody on the way read and change the catalog (hint: sslmode=verify-full, with sslrootcert=FILE "+
			"if the server's certificate is not of a public authority)", mode)
	case !slices.Contains([]string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}, mode):
		return fmt.Errorf("sslmode=%q is none of disable, allow, prefer, require, verify-ca, verify-full", mode)
	}
	return nil
}

func (l *location) remarks() []string {
	mode := l.tls["sslmode"]
	if l.near() || mode == "verify-full" {
		return nil
	}
	return []string{fmt.Sprintf("sslmode=%s does not make sure which server the catalog is on (hint: sslmode=verify-full)", mode)}
}

// config makes the driver's configuration. The driver fills in what it is not
// told from the environment, the home directory and service files, so it is told
// everything, and given a service file that says nothing.
func (l *location) config() (*pgx.ConnConfig, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	_, err = w.WriteString("[chancery]\n")
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	settings := map[string]string{
		"host": strings.Join(l.hosts, ","), "port": strings.Join(l.ports, ","), "dbname": l.database, "user": l.user,
		"password": "", "passfile": os.DevNull, "service": "chancery", "servicefile": fmt.Sprintf("/dev/fd/%d", r.Fd()),
		"sslmode": "", "sslrootcert": "", "sslcert": "", "sslkey": "", "sslpassword": "", "sslcertmode": "allow", "sslsni": "1", "sslnegotiation": "",
		"target_session_attrs": "read-write", "application_name": "", "connect_timeout": "3", "options": "", "timezone": "",
		"min_protocol_version": "3.0", "max_protocol_version": "3.0", "channel_binding": "prefer", "require_auth": "",
	}
	for name, value := range l.tls {
		settings[name] = value
	}
	var words []string
	for name, value := range settings {
		words = append(words, name+"='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value)+"'")
	}
	cfg, err := pgx.ParseConfig(strings.Join(words, " "))
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil { // without the text that was parsed
			return nil, cause
		}
		return nil, errors.New("the driver does not understand it")
	}
	return cfg, nil
}

// CheckURL returns nil if text is what Postgres.URL may be, and otherwise what is
// wrong with it, without a password that stands in it. It is pure.
func CheckURL(text string) error {
	_, err := parsePostgresURL(text)
	return err
}
