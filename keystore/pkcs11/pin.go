package pkcs11

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A pin is a PIN and where it came from.
type pin struct {
	value []byte
	from  fileIdentity
}

// A fileIdentity tells whether a PIN file is the one that was read before.
type fileIdentity struct {
	Path    string `json:"path"`
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime_ns"`
	Changed int64  `json:"ctime_ns"`
}

const maxPIN = 255

// pinWithin is how long whoever passes a PIN by a descriptor may take to.
const pinWithin = 5 * time.Second

// pinFile returns the file that a PIN is to be read from, at each login anew. It
// returns an error for a credential if there are none, and for a descriptor that
// cannot be read.
func pinFile(u URI, credentials string) (string, *os.File, error) {
	switch {
	case u.Credential != "" && credentials == "":
		return "", nil, fmt.Errorf("PIN credential %s: no credentials were passed (hint: LoadCredential=%s:/path in the unit)", u.Credential, u.Credential)
	case u.Credential != "":
		return filepath.Join(credentials, u.Credential), nil, nil
	case u.Descriptor != 0:
		memory, err := keep(u.Descriptor)
		if err != nil {
			return "", nil, fmt.Errorf("PIN descriptor %d: %w", u.Descriptor, err)
		}
		return fmt.Sprintf("/proc/self/fd/%d", memory.Fd()), memory, nil
	}
	return u.PINFile, nil, nil
}

// keep reads a descriptor to its end, closes it, so that nobody inherits it, and
// returns what it held in a file that is in memory only: workers that follow
// each other each need the PIN, and a pipe gives it once.
func keep(fd int) (*os.File, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil { // or else it can have no deadline
		return nil, err
	}
	from := os.NewFile(uintptr(fd), "PIN")
	if from == nil {
		return nil, unix.EBADF
	}
	defer from.Close()
	if err := from.SetReadDeadline(time.Now().Add(pinWithin)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return nil, err
	}
	value := make([]byte, maxPIN+3)
	defer clear(value)
	n, err := io.ReadFull(from, value)
	if err == nil {
		return nil, fmt.Errorf("more than one line of 1 to %d bytes", maxPIN)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("its writer has not closed it within %v (hint: whoever passes it writes one line, then closes it)", pinWithin)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	memory, err := unix.MemfdCreate("PIN", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(memory), "PIN")
	err = f.Chmod(0o600)
	if err == nil {
		_, err = f.Write(value[:n])
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writePIN is the next move of whoever has no PIN file.
const writePIN = "hint: write the PIN to it, on one line, with mode 0600; it is looked at again by itself"

// readPIN reads a PIN file: one line, of a file that only its owner can read.
func readPIN(path string) (pin, error) {
	f, err := os.Open(path)
	if err != nil {
		return pin{}, fmt.Errorf("PIN file: %w (%s)", err, writePIN)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return pin{}, fmt.Errorf("PIN file: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return pin{}, fmt.Errorf("PIN file %s is not a file", path)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return pin{}, fmt.Errorf("PIN file %s has mode %04o (hint: chmod 0600, it must be its owner's alone)", path, fi.Mode().Perm())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return pin{}, fmt.Errorf("PIN file: %w", err)
	}
	value := make([]byte, maxPIN+3)
	n, err := f.Read(value)
	if err != nil {
		return pin{}, fmt.Errorf("PIN file %s is empty or cannot be read (%s)", path, writePIN)
	}
	value = value[:n]
	for _, end := range []byte{'\n', '\r'} {
		if len(value) > 0 && value[len(value)-1] == end {
			value = value[:len(value)-1]
		}
	}
	if len(value) == 0 || len(value) > maxPIN {
		return pin{}, fmt.Errorf("PIN file %s: want one line of 1 to %d bytes", path, maxPIN)
	}
	for _, c := range value {
		if c == 0 || c == '\n' {
			return pin{}, fmt.Errorf("PIN file %s: want one line", path)
		}
	}
	return pin{value, fileIdentity{path, uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}}, nil
}
