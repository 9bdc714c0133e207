package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore"
)

func openBrake(t *testing.T, path string) *Brake {
	t.Helper()
	b, err := OpenBrake(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func suspension(reason string) keystore.Fact {
	return keystore.Fact{At: epoch, By: "operator", Reason: reason}
}

func TestASuspensionOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "brake")
	b := openBrake(t, path)
	want := make(map[keystore.KID]keystore.Fact)
	for i := range 5 {
		kid := keystore.KID(fmt.Sprintf("kid-%d", i))
		want[kid] = suspension(fmt.Sprint("“reason” ", i))
		if err := b.Put(kid, want[kid]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, openBrake(t, path).Suspended()); diff != "" {
			t.Errorf("after %d: %s", i, diff)
		}
	}
	if err := errors.Join(b.Remove("kid-3"), b.Remove("kid-3"), b.Remove("unknown")); err != nil {
		t.Fatal(err)
	}
	delete(want, "kid-3")
	if diff := cmp.Diff(want, openBrake(t, path).Suspended()); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != brakeSize || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A write is cut after each of its bytes. The list before it stands, or, once
// the cut lies behind the last byte that differs, the new one.
func TestATornWriteLeavesTheOlderSlot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "brake")
	b := openBrake(t, path)
	if err := errors.Join(b.Put("a", suspension("a longer reason, so that the list shrinks")), b.Put("b", suspension("second"))); err != nil {
		t.Fatal(err)
	}
	before, old := readFile(t, path), maps.Clone(b.Suspended())
	first := (1 - b.newest) * brakeSlot // where the next write begins
	if err := b.Remove("a"); err != nil {
		t.Fatal(err)
	}
	after, now := readFile(t, path), b.Suspended()

	last := brakeSlot - 1
	for before[first+last] == after[first+last] {
		last--
	}
	torn := filepath.Join(t.TempDir(), "torn")
	for cut := 0; cut <= last+2; cut++ {
		b := append([]byte(nil), before...)
		copy(b[first:first+cut], after[first:])
		if err := os.WriteFile(torn, b, 0o600); err != nil {
			t.Fatal(err)
		}
		want := old
		if cut > last {
			want = now
		}
		again, err := OpenBrake(torn)
		if err != nil {
			t.Fatalf("cut after %d bytes: %v", cut, err)
		}
		if !maps.Equal(again.Suspended(), want) {
			t.Errorf("cut after %d bytes: %v", cut, again.Suspended())
		}
		if cut%50 == 0 { // and it goes on from there
			if err := again.Put("c", suspension("third")); err != nil {
				t.Error(err)
			}
			if got := openBrake(t, torn).Suspended(); len(got) != len(want)+1 {
				t.Errorf("cut after %d bytes, then put: %v", cut, got)
			}
		}
		_ = again.Close()
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAtRestEitherSlotIsEnough(t *testing.T) {
	path := filepath.Join(t.TempDir(), "brake")
	b := openBrake(t, path)
	if err := b.Put("a", suspension("first")); err != nil {
		t.Fatal(err)
	}
	whole := readFile(t, path)
	for i := range 2 {
		broken := bytes.Clone(whole)
		broken[i*brakeSlot+100] ^= 1
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := openBrake(t, path).Suspended(); len(got) != 1 {
			t.Errorf("without slot %d: %v", i, got)
		}
	}
	for name, spoil := range map[string][]byte{
		"both broken": func() []byte {
			b := bytes.Clone(whole)
			b[100] ^= 1
			b[brakeSlot+100] ^= 1
			return b
		}(),
		"empty": {}, "cut": whole[:brakeSlot], "grown": append(bytes.Clone(whole), 0), "zeros": make([]byte, brakeSize),
	} {
		if err := os.WriteFile(path, spoil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenBrake(path); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A faultyFile fails when told to.
type faultyFile struct {
	brakeFile
	write, sync error
}

func (f *faultyFile) WriteAt(b []byte, at int64) (int, error) {
	if f.write != nil {
		n, _ := f.brakeFile.WriteAt(b[:len(b)/2], at) // half of it arrives
		return n, f.write
	}
	return f.brakeFile.WriteAt(b, at)
}

func (f *faultyFile) Sync() error {
	if f.sync != nil {
		return f.sync
	}
	return f.brakeFile.Sync()
}

func TestABrakeThatCannotBeWrittenHoldsInMemory(t *testing.T) {
	broken := errors.New("broken")
	for _, fault := range []faultyFile{{write: broken}, {sync: broken}} {
		path := filepath.Join(t.TempDir(), "brake")
		b := openBrake(t, path)
		if err := b.Put("a", suspension("before")); err != nil {
			t.Fatal(err)
		}
		f := &faultyFile{b.file, fault.write, fault.sync}
		b.file = f
		if err := b.Put("b", suspension("meanwhile")); !errors.Is(err, broken) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("put: %v", err)
		}
		if len(b.Suspended()) != 2 {
			t.Error("it does not hold in memory")
		}
		if err := b.Remove("a"); !errors.Is(err, broken) {
			t.Errorf("remove: %v", err)
		}
		if len(b.Suspended()) != 2 {
			t.Error("what could not be lifted durably was lifted")
		}
		f.write, f.sync = nil, nil
		if err := b.Put("b", suspension("meanwhile")); err != nil {
			t.Errorf("put again: %v", err)
		}
		if got := openBrake(t, path).Suspended(); len(got) != 2 {
			t.Errorf("after recovery: %v", got)
		}
	}
}

func TestABrakeThatWasRemovedIsNotDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "brake")
	b := openBrake(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := b.Put("a", suspension("r")); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if len(b.Suspended()) != 1 {
		t.Error("it does not hold in memory")
	}
}

func TestABrakeHoldsMoreThanAnyoneSuspends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "brake")
	b := openBrake(t, path)
	long := strings.Repeat("é", 10_000)
	for i := range 250 {
		kid := keystore.KID(fmt.Sprintf("%043d", i))
		if err := b.Put(kid, keystore.Fact{At: epoch, By: "spiffe://chancery.dev/operator", Reason: long}); err != nil {
			t.Fatalf("suspension %d: %v", i, err)
		}
	}
	if got := openBrake(t, path).Suspended(); len(got) != 250 {
		t.Errorf("%d are kept", len(got))
	}
	if b.Suspended()[keystore.KID(fmt.Sprintf("%043d", 0))].Reason != long {
		t.Error("in memory a reason was cut")
	}
}

func TestABrakeIsUsedConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "brake")
	b := openBrake(t, path)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			kid := keystore.KID(fmt.Sprint("kid-", i))
			for range 5 {
				if err := errors.Join(b.Put(kid, suspension("r")), b.Remove(kid), b.Put(kid, suspension("s"))); err != nil {
					t.Error(err)
				}
				if _, ok := b.Suspended()[kid]; !ok {
					t.Error("what was put is not there")
				}
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(b.Suspended(), openBrake(t, path).Suspended()); diff != "" {
		t.Error(diff)
	}
}

// On a full file system the database cannot be written, the brake can.
func TestS09TheBrakeWorksWhenTheDiskIsFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root mounts a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	b := openBrake(t, filepath.Join(dir, "brake"))
	c := open(t, filepath.Join(dir, "catalog.db"))
	mustCreate(t, c, keySet("web"))
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4096); err == nil; {
		_, err = f.Write(chunk)
	}
	_ = f.Close()

	failed := false
	for range 400 { // the write-ahead log has room for a while
		_, err := c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			ks.Versions = append(ks.Versions, pending(len(ks.Versions)+1))
			return []keystore.Record{record(keystore.ActKeyGenerate)}, nil
		})
		if err != nil {
			if !errors.Is(err, keystore.ErrUnavailable) {
				t.Errorf("an error of another kind: %v", err)
			}
			failed = true
			break
		}
	}
	if !failed {
		t.Error("the catalog was written on a full disk")
	}
	if err := b.Put("a", suspension("stop")); err != nil {
		t.Errorf("put: %v", err)
	}
	if got := openBrake(t, filepath.Join(dir, "brake")).Suspended(); len(got) != 1 {
		t.Errorf("kept: %v", got)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := c.Remember(t.Context(), "log", 1, [32]byte{}); err != nil {
		t.Errorf("when there is space again: %v", err)
	}
	rows, err := c.Outbox(t.Context())
	if ks := set(t, c, "web"); err != nil || len(ks.Versions) != len(rows)-1 {
		t.Errorf("%d versions, %d records, %v", len(ks.Versions), len(rows), err)
	}
}

func FuzzBrakeSlot(f *testing.F) {
	empty, _ := encodeSlot(1, nil)
	two, _ := encodeSlot(1<<40, map[keystore.KID]keystore.Fact{"a": suspension("r"), "b": {At: epoch.Add(time.Nanosecond)}})
	for _, seed := range [][]byte{empty, two, two[:200], []byte(brakeMagic), bytes.Replace(two, []byte("operator"), []byte("0perator"), 1)} {
		f.Add(bytes.TrimRight(seed, "\x00"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		slot := make([]byte, brakeSlot)
		copy(slot, b)
		if len(b) >= brakeHeader { // let the fuzzer past the checksum
			length := len(bytes.TrimRight(slot, "\x00")) - brakeHeader
			if length > 0 {
				slot[16], slot[17], slot[18], slot[19] = 0, 0, byte(length>>8), byte(length)
				crc := slotSum(slot, length)
				slot[20], slot[21], slot[22], slot[23] = byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc)
			}
		}
		sequence, list, err := decodeSlot(slot)
		if err != nil {
			return
		}
		again, err := encodeSlot(sequence, list)
		if err != nil || !bytes.Equal(again, slot) {
			t.Errorf("what parses is spelled differently: %v", err)
		}
	})
}
