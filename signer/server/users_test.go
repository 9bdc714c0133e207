package server

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chancery/signer/policy"
)

// stranger is a uid and a gid of nobody's here.
const stranger = 54321

// TestStranger is not a test: it is the program that another user runs, as
// runAs tells it.
func TestStranger(t *testing.T) {
	path := os.Getenv("STRANGER_SOCKET")
	switch os.Getenv("STRANGER") {
	case "connects": // and waits until it is sent away
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("it was spoken to")
		}
	case "inherits": // a connection, as its file 4
		if _, err := os.NewFile(4, "connection").WriteString("hello"); err != nil {
			t.Fatal(err)
		}
	case "passes": // its connection on, by its file 4
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.(*net.UnixConn).File()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendmsg(4, []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
			t.Fatal(err)
		}
	default:
		t.Skip("nobody asked for another user")
	}
}

// runAs runs TestStranger as the stranger, who may enter the socket's directory.
func runAs(t *testing.T, what, socket string, file *os.File) error {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can run a program as another user")
	}
	for path, mode := range map[string]os.FileMode{filepath.Dir(filepath.Dir(socket)): 0o755, filepath.Dir(socket): 0o750, socket: 0o660} {
		if err := os.Chown(path, -1, stranger); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd := exec.Command("/proc/self/fd/3", "-test.run=^TestStranger$") // wherever it lies, others may not enter there
	cmd.ExtraFiles = []*os.File{self}
	if file != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	cmd.Env = []string{"STRANGER=" + what, "STRANGER_SOCKET=" + socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("%s", out)
	}
	return err
}

// A20: a door that is told whom to admit sends others away before the handshake,
// whatever the socket's mode, and says who it was.
func TestA20OtherUsersAreSentAway(t *testing.T) {
	path := socketPath(t)
	s, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	g := newGate(t, root.localhost(t), policy.Revoked{}, at(noon), root).Only([]uint32{uint32(os.Getuid())}, nil)
	failed := make(chan string, 10)
	door := &Door{
		TLS: g.TLS, Admit: g.Admits, Log: slog.New(slog.DiscardHandler),
		Failed: func(peer string, err error) { failed <- peer + ": " + HandshakeReason(err) },
	}
	conns := door.Protocol("http/1.1")
	var wg sync.WaitGroup
	wg.Go(func() { door.Serve(s) })
	defer wg.Wait()
	defer door.Close()

	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wg.Go(func() { tls.Client(c, clientConfig(root, root.named(t, "issuer"))).Handshake() })
	if u := UnixOf(accept(t, conns)); u == nil || *u != (policy.Unix{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}) {
		t.Errorf("who is admitted is %+v", u)
	}
	if err := runAs(t, "connects", path, nil); err != nil {
		t.Errorf("a stranger: %v", err)
	}
	if got, want := <-failed, "uid 54321: uid 54321 with gid 54321 may not connect"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

func TestA20WhoIsAdmitted(t *testing.T) {
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	open := newGate(t, root.localhost(t), policy.Revoked{}, at(noon), root)
	cs, err, _ := shakeHands(t, open.TLS(), clientConfig(root, root.named(t, "issuer")))
	if err != nil {
		t.Fatal(err)
	}
	who := func(uid, gid uint32) *policy.Unix { return &policy.Unix{UID: uid, GID: gid} }
	for _, c := range []struct {
		what string
		gate *Gate
		who  *policy.Unix
		want bool
	}{
		{"nothing is said", open, who(1, 2), true},
		{"a user that is listed", open.Only([]uint32{7, 1}, nil), who(1, 2), true},
		{"another user", open.Only([]uint32{7}, nil), who(1, 2), false},
		{"root, who is not listed either", open.Only([]uint32{7}, nil), who(0, 0), false},
		{"a group that is listed", open.Only(nil, []uint32{2}), who(1, 2), true},
		{"another group", open.Only(nil, []uint32{1}), who(1, 2), false},
		{"one of both is enough", open.Only([]uint32{7}, []uint32{2}), who(1, 2), true},
		{"by TCP", open.Only([]uint32{7}, []uint32{7}), nil, true},
	} {
		if err := c.gate.Admits(c.who); (err == nil) != c.want {
			t.Errorf("%s: %v", c.what, err)
		}
		// I10: a list that is put in force counts for connections there are, too.
		v := &Visitor{unix: c.who}
		if _, err := v.Identify(open, &cs, noon); err != nil {
			t.Errorf("%s, before: %v", c.what, err)
		}
		got, err := v.Identify(c.gate, &cs, noon)
		if (err == nil) != c.want || c.gate.Condemned(v, &cs, noon) == c.want {
			t.Errorf("%s: %v, condemned %v", c.what, err, c.gate.Condemned(v, &cs, noon))
		}
		if err == nil && got.Unix != c.who {
			t.Errorf("%s: the caller's user is %+v", c.what, got.Unix)
		}
	}
}

// A20: there is no moment between bind and chmod, even under the widest umask.
func TestA20TheSocketIsBornNarrow(t *testing.T) {
	path := socketPath(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	before := syscall.Umask(0)
	l, err := listenNarrow(path)
	syscall.Umask(before)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if m := mode(t, path); m.Perm() != 0o660 {
		t.Errorf("before anything set its mode, the socket has %v", m)
	}
}

// A21: whoever has a connection now, it is of the process that connected.
func TestA21ThePeerIsWhoConnected(t *testing.T) {
	path := socketPath(t)
	s, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	t.Run("inherited by another user", func(t *testing.T) {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f, err := c.(*net.UnixConn).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		server := accept(t, s)
		if err := runAs(t, "inherits", path, f); err != nil {
			t.Fatal(err)
		}
		server.SetDeadline(time.Now().Add(patience))
		hello := make([]byte, 5)
		if _, err := io.ReadFull(server, hello); err != nil || string(hello) != "hello" {
			t.Fatalf("%q, %v", hello, err)
		}
		if u := UnixOf(server); u.UID != uint32(os.Getuid()) { // asked after another user has written
			t.Errorf("it is uid %d's", u.UID)
		}
	})
	t.Run("passed on by another user", func(t *testing.T) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		theirs := os.NewFile(uintptr(pair[1]), "theirs")
		defer theirs.Close()
		if err := runAs(t, "passes", path, theirs); err != nil {
			t.Fatal(err)
		}
		server := accept(t, s)
		oob := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, 0)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) != 1 {
			t.Fatal(messages, err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			t.Fatal(fds, err)
		}
		ours := os.NewFile(uintptr(fds[0]), "ours")
		defer ours.Close()
		if _, err := io.Copy(ours, strings.NewReader("hello")); err != nil { // by us
			t.Fatal(err)
		}
		if u := UnixOf(server); *u != (policy.Unix{UID: stranger, GID: stranger}) {
			t.Errorf("it is %+v's", u)
		}
	})
}
