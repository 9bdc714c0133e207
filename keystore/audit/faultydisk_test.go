package audit

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
)

// faultyDisk is the real disk with orders to fail.
type faultyDisk struct {
	osDisk
	mu     sync.Mutex
	orders map[string]error // by operation: "create", "open", "write", "sync", "stat"; taken when it fails
	keep   bool             // orders stay
	only   string           // what is in the paths that the orders are for
	torn   int              // of a failing write, how many bytes are written all the same
	calls  map[string]int
	held   map[string]chan struct{} // operations that wait
}

func newFaultyDisk() *faultyDisk {
	return &faultyDisk{orders: map[string]error{}, calls: map[string]int{}, held: map[string]chan struct{}{}}
}

func (d *faultyDisk) order(op string, err error, keep bool) { d.orderIn("", op, err, keep) }

// orderIn is order for the files that have part in their path.
func (d *faultyDisk) orderIn(part, op string, err error, keep bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.orders[op], d.keep, d.only = err, keep, part
}

// hold lets the operation wait, as on a disk that hangs, until release is called.
func (d *faultyDisk) hold(op string) (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	gate := make(chan struct{})
	d.held[op] = gate
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.held, op)
		close(gate)
	})
}

func (d *faultyDisk) fails(op, path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if gate, ok := d.held[op]; ok {
		d.calls["held"]++
		d.mu.Unlock()
		<-gate
		d.mu.Lock()
	}
	d.calls[op]++
	if !strings.Contains(path, d.only) {
		return nil
	}
	err := d.orders[op]
	if !d.keep {
		delete(d.orders, op)
	}
	return err
}

func (d *faultyDisk) count(op string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[op]
}

func (d *faultyDisk) Create(path string, size int64, content []byte) (file, error) {
	if err := d.fails("create", path); err != nil {
		return nil, err
	}
	f, err := d.osDisk.Create(path, size, content)
	return d.wrap(f, path, err)
}

func (d *faultyDisk) Open(path string) (file, error) {
	if err := d.fails("open", path); err != nil {
		return nil, err
	}
	f, err := d.osDisk.Open(path)
	return d.wrap(f, path, err)
}

func (d *faultyDisk) wrap(f file, path string, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return &faultyFile{file: f, path: path, disk: d}, nil
}

type faultyFile struct {
	file
	path string
	disk *faultyDisk
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.disk.fails("write", f.path); err != nil {
		n, _ := f.file.WriteAt(b[:min(f.disk.torn, len(b))], off)
		return n, err
	}
	return f.file.WriteAt(b, off)
}

func (f *faultyFile) Sync() error {
	if err := f.disk.fails("sync", f.path); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *faultyFile) Stat() (os.FileInfo, error) {
	if err := f.disk.fails("stat", f.path); err != nil {
		return nil, err
	}
	return f.file.Stat()
}

func newFaultyRig(t *testing.T, change ...func(*Config)) (*rig, *faultyDisk) {
	d := newFaultyDisk()
	r := newRig(t, append(change, func(c *Config) { c.disk, c.Interval = d, 5*time.Millisecond })...)
	return r, d
}

// refused is the error of an act that was not released.
func (r *rig) refused(n int) error {
	r.Helper()
	rec, err := r.log.Act(r.Context(), signed(n))
	if err == nil {
		r.Fatalf("released as %s", rec.Entry)
	}
	if !errors.Is(err, keystore.ErrUnavailable) {
		r.Errorf("%v does not say unavailable", err)
	}
	return err
}

func (r *rig) healthy() {
	r.Helper()
	waitFor(r, "the log recovers", func() bool { return r.log.Health() == nil })
}
