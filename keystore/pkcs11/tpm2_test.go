package pkcs11_test

import (
	"os"
	"path/filepath"
	"testing"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
)

// tpm2 starts a software TPM, and before it the resource manager that a kernel
// would have, on a message bus of the test's own.
func tpm2(t *testing.T, files []string) rig {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"tpm", "store"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	bus, socket := filepath.Join(dir, "bus"), filepath.Join(dir, "swtpm")
	env := map[string]string{
		"DBUS_SESSION_BUS_ADDRESS": "unix:path=" + bus,
		"TPM2_PKCS11_TCTI":         "tabrmd:bus_type=session",
		"TPM2_PKCS11_STORE":        filepath.Join(dir, "store"),
		"TSS2_LOG":                 "all+NONE",
	}
	server(t, nil, "/usr/bin/swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(dir, "tpm"),
		"--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear")
	server(t, nil, "/usr/bin/dbus-daemon", "--session", "--address=unix:path="+bus, "--nofork", "--nopidfile")
	awaitFile(t, socket)
	awaitFile(t, bus)
	server(t, env, "/usr/sbin/tpm2-abrmd", "--session", "--allow-root", "--tcti=swtpm:path="+socket)
	const pin, so = "12345678", "76543210"
	eventually(t, "the TPM", func() bool {
		return run(env, "/usr/bin/pkcs11-tool", "--module", files[0], "--slot-index", "0", "--init-token", "--label", "test", "--so-pin", so) == nil
	})
	ran(t, env, "", "/usr/bin/pkcs11-tool", "--module", files[0], "--token-label", "test",
		"--login", "--login-type", "so", "--so-pin", so, "--init-pin", "--new-pin", pin)
	return rig{module: files[0], label: "test", pin: pin, env: env, needs: pkcs11.Confinement{Write: []string{dir}}}
}

func TestTPM2(t *testing.T) {
	files := need(t, "libtpm2-pkcs11-1 swtpm tpm2-abrmd libtss2-tcti-tabrmd0 libtss2-tcti-swtpm0 dbus-daemon opensc",
		"/usr/lib/*/libtpm2_pkcs11.so.1", "/usr/bin/swtpm", "/usr/sbin/tpm2-abrmd", "/usr/bin/dbus-daemon", "/usr/bin/pkcs11-tool",
		"/usr/lib/*/libtss2-tcti-tabrmd.so.0", "/usr/lib/*/libtss2-tcti-swtpm.so.0")
	r := tpm2(t, files)
	r.contract(t)
	r.check(t, keystore.ES256, facts{
		Token: "IBM/SW   TPM", Serial: "0000000000000000", Flags: "login pin initialized", Sessions: 1024,
		ReadOnly: "ok", Point: "044104", Copy: "FUNCTION_NOT_SUPPORTED", Modify: "ok",
	})
}
