package pkcs11_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
)

// nss makes a database for NSS's softoken. Its C_Initialize wants a string that
// PKCS#11 has no place for, which p11-kit's proxy module hands on.
func nss(t *testing.T, files []string) rig {
	t.Helper()
	dir := t.TempDir()
	db, conf := filepath.Join(dir, "db"), filepath.Join(dir, "modules")
	for _, d := range []string{db, conf} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const pin = "1234-5678-abcd"
	write(t, filepath.Join(dir, "pin"), []byte(pin+"\n"))
	ran(t, nil, "", "/usr/bin/certutil", "-N", "-d", "sql:"+db, "-f", filepath.Join(dir, "pin"))
	write(t, filepath.Join(conf, "nss.module"), fmt.Appendf(nil,
		"module: %s\nx-init-reserved: configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags=\ncritical: yes\n", files[1], db))
	mount(t, conf, "/usr/share/p11-kit/modules")
	return rig{module: files[0], label: "NSS Certificate DB", pin: pin, needs: pkcs11.Confinement{Write: []string{db}}}
}

func TestNSS(t *testing.T) {
	files := need(t, "libnss3 libnss3-tools p11-kit p11-kit-modules", "/usr/lib/*/p11-kit-proxy.so", "/usr/lib/*/libsoftokn3.so",
		"/usr/bin/certutil", "/usr/share/p11-kit/modules")
	if !apart(t) {
		return
	}
	r := nss(t, files)
	r.contract(t)
	r.check(t, keystore.ES256, facts{
		Token: "Mozilla Foundation/NSS 3", Serial: "0000000000000000", Flags: "login pin initialized",
		ReadOnly: "ok", Point: "044104", Unknown: "COPYABLE ALWAYS_AUTHENTICATE", Copy: "ok", Modify: "ATTRIBUTE_READ_ONLY",
	})
}
