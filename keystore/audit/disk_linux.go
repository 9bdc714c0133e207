package audit

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve gives f size bytes of zeros that can be written without asking for
// space again.
func reserve(f *os.File, size int64) error {
	err := retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return writeZeros(f, 0, size)
	}
	return err
}

func datasync(f *os.File) error {
	return retry(func() error { return unix.Fdatasync(int(f.Fd())) })
}

// forget drops f's pages from the page cache, after writing those that wait, so
// that a read tells what is on the device.
func forget(f *os.File) error {
	if err := datasync(f); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// freeSpace returns how many bytes this process may still write in dir.
func freeSpace(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(dir, &s) }); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}
