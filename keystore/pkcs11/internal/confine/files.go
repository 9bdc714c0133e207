package confine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// everyModule reads these, where they exist. Of /etc only what is named here:
// the daemon's own configuration and keys may be there too.
var everyModule = []string{
	// Libraries and their data.
	"/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload",
	// Names, users, time (nsswitch.conf(5), resolver(3)).
	"/etc/nsswitch.conf", "/etc/host.conf", "/etc/hosts", "/etc/resolv.conf", "/etc/gai.conf",
	"/etc/services", "/etc/protocols", "/etc/passwd", "/etc/group", "/etc/localtime", "/etc/timezone",
	"/etc/machine-id",
	// TLS; not /etc/ssl/private.
	"/etc/ssl/openssl.cnf", "/etc/ssl/certs", "/etc/ca-certificates", "/etc/crypto-policies",
	"/etc/pki/tls/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/ca-trust/extracted",
	// The process and the processor.
	"/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
	"/proc/sys/crypto/fips_enabled", "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/osrelease",
	"/sys/devices/system/cpu", "/sys/kernel/mm/transparent_hugepage",
	"/dev/zero", "/dev/random", "/dev/urandom",
}

// everyModuleWrites these: the null device, and the system log's socket.
var everyModuleWrites = []string{"/dev/null", "/dev/log"}

// usbDevices are where libusb opens devices, which it finds in the others.
const usbDevices = "/dev/bus/usb"

var usbFinds = []string{"/sys/bus/usb", "/sys/class", "/sys/devices", "/run/udev"}

// Rights by the kernel's landlock(7).
const (
	readFile = ll.AccessFSReadFile
	readDir  = readFile | ll.AccessFSReadDir
	// On a file: an ioctl on a device and connecting to a socket are what it was
	// listed for.
	writeFile = readFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSIoctlDev | ll.AccessFSResolveUnix
	// In a directory: everything but making devices.
	writeDir = readDir | writeFile | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile | ll.AccessFSMakeDir |
		ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSMakeFifo | ll.AccessFSMakeSym | ll.AccessFSRefer
)

// known are what each ABI can restrict, from 1.
var known = []landlock.Config{
	landlock.V1, landlock.V2, landlock.V3, landlock.V4, landlock.V5, landlock.V6,
	landlock.V7, landlock.V8, landlock.V9, landlock.V10, landlock.V11,
}

// restrictFiles has Landlock allow the files of the rules and nothing else, in
// all threads. From ABI 8 on the kernel sees to that; before, a signal asks each
// thread to do it (libcap's psx), which no foreign thread can be trusted with.
func restrictFiles(rules Rules, r *Report) {
	abi, err := ll.LandlockGetABIVersion()
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		r.miss("file access: Landlock is switched off in this kernel (hint: lsm= of its command line)")
		return
	case err != nil || abi < 1:
		r.miss("file access: the kernel has no Landlock")
		return
	}
	abi = min(abi, len(known))
	c := known[abi-1]
	// Signals are the filter's: before ABI 8 each thread has a domain of its own,
	// and kernels without erratum 2 would let none signal another.
	c.Scoped &= ll.ScopeAbstractUnixSocket
	if rules.Network {
		c.HandledAccessNet = 0
	}
	if err := c.Restrict(landlockRules(rules, c.HandledAccessFS, r)...); err != nil {
		r.miss("file access: %v", err)
		return
	}
	r.Landlock = abi
	if abi < 3 {
		r.miss("truncating files: Landlock ABI %d cannot restrict it", abi)
	}
	if abi < 6 {
		r.miss("abstract Unix sockets: Landlock ABI %d cannot restrict them", abi)
	}
	if abi < 9 {
		r.miss("connecting to Unix sockets in the file system: Landlock ABI %d cannot restrict it", abi)
	}
}

// landlockRules turns paths to rules. One that is not there is said if it was
// asked for.
func landlockRules(rules Rules, handled landlock.AccessFSSet, r *Report) []landlock.Rule {
	var all []landlock.Rule
	add := func(path string, file, dir landlock.AccessFSSet) error {
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		rights := file
		if fi.IsDir() {
			rights = dir
		}
		if rules.Exec {
			rights |= ll.AccessFSExecute
		}
		all = append(all, landlock.PathAccess(rights&handled, path).IgnoreIfMissing())
		return nil
	}
	for _, path := range builtIn(rules) {
		add(path, readFile, readDir) // where it exists
	}
	for _, path := range everyModuleWrites {
		add(path, writeFile, writeFile)
	}
	for _, path := range rules.Read {
		if err := add(path, readFile, readDir); err != nil {
			r.miss("nothing to read: %s", reason(err))
		}
	}
	for _, path := range rules.Write {
		if err := add(path, writeFile, writeDir); err != nil {
			r.miss("nothing to write: %s", reason(err))
		}
	}
	keepProcSelf()
	return all
}

func reason(err error) string {
	if e := new(fs.PathError); errors.As(err, &e) {
		return e.Path + ": " + e.Err.Error()
	}
	return err.Error()
}

// builtIn returns what is read without having been asked for.
func builtIn(rules Rules) []string {
	paths := append([]string(nil), everyModule...)
	modules := []string{rules.Module}
	if real, err := filepath.EvalSymlinks(rules.Module); err == nil && real != rules.Module {
		modules = append(modules, real)
	}
	for _, m := range modules {
		paths = append(paths, m)
		if dir := filepath.Dir(m); dir != "/" {
			paths = append(paths, dir)
		}
	}
	if rules.usesUSB() {
		paths = append(paths, usbFinds...)
	}
	// A resolver's daemon replaces the file that /etc/resolv.conf leads to.
	if real, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && rules.Network {
		if dir := filepath.Dir(real); dir != "/etc" && dir != "/" {
			paths = append(paths, dir)
		}
	}
	return paths
}

// keepProcSelf holds /proc/self open, for ever: the rule is bound to its inode,
// and procfs makes another one when nobody holds the first and memory is short.
func keepProcSelf() {
	_, _ = unix.Open("/proc/self", unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
}
