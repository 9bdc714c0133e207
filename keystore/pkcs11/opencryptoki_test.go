package pkcs11_test

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
)

// opencryptoki starts its slot daemon over a configuration, a store and shared
// memory of the test's own. All of them have fixed places on a machine.
func opencryptoki(t *testing.T, files []string) rig {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"etc", "run/lock/opencryptoki/swtok", "lib/swtok/TOK_OBJ", "log/opencryptoki", "shm"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o770); err != nil {
			t.Fatal(err)
		}
	}
	const conf = "version opencryptoki-3.8\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n"
	write(t, filepath.Join(dir, "etc/opencryptoki.conf"), []byte(conf))
	giveToGroup(t, "pkcs11", filepath.Join(dir, "run/lock"), filepath.Join(dir, "lib"))
	for sub, place := range map[string]string{
		"etc": "/etc/opencryptoki", "lib": "/var/lib/opencryptoki", "log": "/var/log",
		"run": "/run", "shm": "/dev/shm",
	} {
		mount(t, filepath.Join(dir, sub), place)
	}
	server(t, nil, "/usr/sbin/pkcsslotd", "-f")
	awaitFile(t, "/run/pkcsslotd.socket")
	const so, pin = "76543210", "12345678"
	ran(t, nil, "test\n", "/usr/sbin/pkcsconf", "-I", "-c", "0", "-S", "87654321") // the SO PIN of a new token
	ran(t, nil, "", "/usr/sbin/pkcsconf", "-P", "-c", "0", "-S", "87654321", "-n", so)
	ran(t, nil, "", "/usr/sbin/pkcsconf", "-u", "-c", "0", "-S", so, "-n", pin)
	return rig{module: files[0], label: "test", pin: pin, needs: pkcs11.Confinement{
		Read:  []string{"/etc/opencryptoki"},
		Write: []string{"/var/lib/opencryptoki", "/run/lock/opencryptoki", "/run/pkcsslotd.socket", "/dev/shm", "/var/log/opencryptoki"},
	}}
}

// giveToGroup gives trees to a group.
func giveToGroup(t *testing.T, name string, trees ...string) {
	t.Helper()
	group, err := user.LookupGroup(name)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		t.Fatal(err)
	}
	for _, tree := range trees {
		err := filepath.Walk(tree, func(path string, _ os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			return os.Chown(path, -1, gid)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenCryptoki(t *testing.T) {
	files := need(t, "opencryptoki", "/usr/lib/*/pkcs11/libopencryptoki.so", "/usr/sbin/pkcsslotd", "/usr/sbin/pkcsconf",
		"/usr/lib/*/opencryptoki/stdll/libpkcs11_sw.so")
	if !apart(t) {
		return
	}
	r := opencryptoki(t, files)
	r.contract(t)
	r.check(t, keystore.RS256, facts{
		Token: "IBM Corp./IBM SoftTok", Serial: "123", Flags: "login pin initialized",
		Sessions: ^uint(0) - 1, ReadOnly: "ok", Unknown: "COPYABLE", Copy: "ok", Modify: "ATTRIBUTE_READ_ONLY",
	})
}
