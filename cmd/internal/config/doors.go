package config

import (
	"crypto/x509"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"syscall"

	"chancery/signer/crl"
)

// users checks who may connect to a listener's socket.
func (k checker) users(path string, g Guarded) {
	for name, list := range map[string][]uint32{"allow_uids": g.AllowUIDs, "allow_gids": g.AllowGIDs} {
		member := path + "." + name
		if !k.has(member) || k.said(member) {
			continue
		}
		switch {
		case len(list) == 0:
			k.errorf(member, "remove it, and everyone whom the socket's mode lets in may connect", "it is empty, so nobody could connect")
		case g.Socket == "":
			k.errorf(member, "", "it is about the socket, and there is none")
		case g.TCP != "":
			k.warnf(member, "remove tcp, if only they are to connect", "whoever comes by TCP has no uid and is not asked for it")
		}
		for i, id := range list {
			at := fmt.Sprintf("%s[%d]", member, i)
			if id == math.MaxUint32 {
				k.errorf(at, "", "%d is nobody", id)
			}
			if slices.Contains(list[:i], id) {
				k.errorf(at, "", "%d is there twice", id)
			}
		}
	}
}

// crls looks at the revocation lists of a client. They come from outside and
// change while the daemon runs, so what is wrong with them is a warning: it tells
// who is refused now.
func (k checker) crls(path string, c *Client) {
	member := path + ".crl"
	if !k.has(member) {
		if k.has(path + ".crl_max_age") {
			k.errorf(path+".crl_max_age", "add crl", "there is no revocation list that it could be about")
		}
		return
	}
	if k.said(member) {
		return
	}
	if len(c.CRL) == 0 {
		k.errorf(member, "remove it, and revocation is not asked for", "it is empty, so every client would be refused")
		return
	}
	var all []*crl.List
	for i, file := range c.CRL {
		at := fmt.Sprintf("%s[%d]", member, i)
		if file == "" {
			continue // said already
		}
		if slices.Contains(c.CRL[:i], file) {
			k.errorf(at, "", "%s is there twice", file)
			continue
		}
		lists, err := ReadLists(file, nil, c.certificates)
		if err != nil {
			k.warnf(at, "until it is put right, a restart would refuse whom it is about", "%v", reason(err))
			return
		}
		all = append(all, lists...)
	}
	if err := crl.NewSet(all, c.CRLMaxAge).Trouble(c.certificates, k.now); err != nil {
		k.warnf(member, "whom it is about is refused until there is a new one", "%v", err)
	}
}

// ReadLists reads a file of revocation lists of at most crl.MaxSize bytes, and
// checks it against the lists it stands in place of and the anchors' certificates,
// as crl.Check does.
func ReadLists(path string, before []*crl.List, anchors []*x509.Certificate) ([]*crl.List, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // or a pipe would hold us up
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, crl.MaxSize+1))
	if err != nil {
		return nil, err
	}
	lists, err := crl.Parse(data)
	if err == nil {
		err = crl.Check(lists, before, anchors)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return lists, nil
}

// Certificates returns the certificates of the file CA, as they were when the
// configuration was loaded.
func (c Client) Certificates() []*x509.Certificate { return c.certificates }
