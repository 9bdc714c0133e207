package faultmodule_test

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/pkcs11"

	"chancery/softhsm/softhsmtest"
)

// A driver is a process that has the module loaded and calls it as it is told,
// one line for each call and one for what it returned.
type driver struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err string // path of the file that its standard error is
}

const driverEnv = "FAULTMODULE_TEST_DRIVER"

func TestMain(m *testing.M) {
	if path := os.Getenv(driverEnv); path != "" {
		drive(path, os.Stdin, os.Stdout)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// start executes a driver. It ends with the test.
func start(t *testing.T, token *softhsmtest.FaultyToken) *driver {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{t: t, cmd: exec.Command(self), err: filepath.Join(t.TempDir(), "stderr")}
	d.cmd.Env = []string{driverEnv + "=" + token.Module}
	for name, value := range token.Env() {
		d.cmd.Env = append(d.cmd.Env, name+"="+value)
	}
	stderr, err := os.Create(d.err)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	d.cmd.Stderr = stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	d.in, err = d.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.out = bufio.NewReader(out)
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.cmd.Process.Kill() // it may hang
		d.cmd.Wait()
	})
	return d
}

// ready executes a driver, initialises the module and opens session s1 on the
// token, logged in.
func ready(t *testing.T, token *softhsmtest.FaultyToken) *driver {
	t.Helper()
	d := start(t, token)
	d.want("ok", "init")
	d.want("ok", "open s1 "+token.Label+" rw")
	d.want("ok", "login s1 "+token.PINFile)
	return d
}

// do returns what a call returned, or how the process ended in it.
func (d *driver) do(line string) string {
	d.t.Helper()
	if _, err := io.WriteString(d.in, line+"\n"); err != nil {
		return d.ended()
	}
	answer, err := d.out.ReadString('\n')
	if err != nil {
		return d.ended()
	}
	return strings.TrimSuffix(answer, "\n")
}

func (d *driver) ended() string {
	err := d.cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.String()
	}
	return fmt.Sprint("exit status 0 ", err)
}

// said returns what stands on its standard error.
func (d *driver) said() string {
	d.t.Helper()
	text, err := os.ReadFile(d.err)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

func (d *driver) want(answer, line string) {
	d.t.Helper()
	if got := d.do(line); got != answer {
		d.t.Fatalf("%s: %s, want %s\n%s", line, got, answer, d.said())
	}
}

// get returns the words of an answer after "ok".
func (d *driver) get(line string) []string {
	d.t.Helper()
	words := strings.Fields(d.do(line))
	if len(words) == 0 || words[0] != "ok" {
		d.t.Fatalf("%s: %s\n%s", line, words, d.said())
	}
	return words[1:]
}

// one is get for an answer of one word.
func (d *driver) one(line string) string {
	d.t.Helper()
	words := d.get(line)
	if len(words) != 1 {
		d.t.Fatalf("%s: %d words, want one", line, len(words))
	}
	return words[0]
}

// A caller is the driver's other side.
type caller struct {
	ctx      *pkcs11.Ctx
	sessions map[string]pkcs11.SessionHandle
	later    chan string // answers of what goes on beside
}

func drive(path string, in io.Reader, out io.Writer) {
	c := &caller{pkcs11.New(path), make(map[string]pkcs11.SessionHandle), make(chan string, 64)}
	if c.ctx == nil {
		fmt.Fprintln(out, "not loaded")
		return
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if words[0] == "beside" {
			go func() { c.later <- answer(c.call(words[1:])) }()
			fmt.Fprintln(out, "ok")
			continue
		}
		fmt.Fprintln(out, answer(c.call(words)))
	}
}

func answer(words []string, err error) string {
	if code := pkcs11.Error(0); errors.As(err, &code) {
		return fmt.Sprintf("0x%x", uint(code))
	}
	if err != nil {
		return err.Error()
	}
	return strings.Join(append([]string{"ok"}, words...), " ")
}

var digest = []byte("thirty-two bytes for a signature")

func (c *caller) call(w []string) ([]string, error) {
	s := pkcs11.SessionHandle(0)
	if len(w) > 1 {
		s = c.sessions[w[1]]
	}
	arg := func(i int) string { return w[i] }
	handle := func(i int) pkcs11.ObjectHandle {
		n, _ := strconv.ParseUint(arg(i), 10, 64)
		return pkcs11.ObjectHandle(n)
	}
	switch w[0] {
	case "init":
		return nil, c.ctx.Initialize()
	case "finalize":
		return nil, c.ctx.Finalize()
	case "info":
		_, err := c.ctx.GetInfo()
		return nil, err
	case "slots":
		slots, err := c.ctx.GetSlotList(arg(1) == "present")
		return texts(slots), err
	case "labels":
		return c.labels()
	case "slotof":
		slot, err := c.slot(arg(1))
		return texts([]uint{slot}), err
	case "slotflags":
		slot, err := c.slot(arg(1))
		if err != nil {
			return nil, err
		}
		info, err := c.ctx.GetSlotInfo(slot)
		return texts([]uint{info.Flags}), err
	case "tokenflags":
		slot, err := c.slot(arg(1))
		if err != nil {
			return nil, err
		}
		info, err := c.ctx.GetTokenInfo(slot)
		return texts([]uint{info.Flags}), err
	case "open":
		slot, err := c.slot(arg(2))
		if err != nil {
			return nil, err
		}
		flags := uint(pkcs11.CKF_SERIAL_SESSION)
		if arg(3) == "rw" {
			flags |= pkcs11.CKF_RW_SESSION
		}
		c.sessions[arg(1)], err = c.ctx.OpenSession(slot, flags)
		return nil, err
	case "close":
		return nil, c.ctx.CloseSession(s)
	case "closeall":
		slot, err := c.slot(arg(1))
		if err != nil {
			return nil, err
		}
		return nil, c.ctx.CloseAllSessions(slot)
	case "sessioninfo":
		_, err := c.ctx.GetSessionInfo(s)
		return nil, err
	case "login":
		pin, err := os.ReadFile(arg(2))
		if err != nil {
			return nil, err
		}
		return nil, c.ctx.Login(s, pkcs11.CKU_USER, strings.TrimSpace(string(pin)))
	case "generate":
		return nil, c.generate(s, arg(2))
	case "find":
		return c.find(s, arg(2), w[3:]...)
	case "attribute":
		return c.attribute(s, handle(2), arg(3))
	case "signinit":
		return nil, c.ctx.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, handle(2))
	case "sign":
		if err := c.ctx.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, handle(2)); err != nil {
			return nil, fmt.Errorf("init %s", answer(nil, err))
		}
		return c.finish(s)
	case "finish":
		return c.finish(s)
	case "random":
		_, err := c.ctx.GenerateRandom(s, 8)
		return nil, err
	case "signmany":
		return nil, c.signMany(arg(1), handle(2), arg(3), arg(4))
	case "wait":
		return strings.Fields(<-c.later), nil
	}
	return nil, fmt.Errorf("the driver knows no %q", w[0])
}

func (c *caller) finish(s pkcs11.SessionHandle) ([]string, error) {
	sig, err := c.ctx.Sign(s, digest)
	if err != nil {
		return nil, err
	}
	return []string{hex.EncodeToString(sig)}, nil
}

func texts(numbers []uint) []string {
	var list []string
	for _, n := range numbers {
		list = append(list, strconv.FormatUint(uint64(n), 10))
	}
	return list
}

func (c *caller) labels() ([]string, error) {
	slots, err := c.ctx.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	var labels []string
	for _, slot := range slots {
		if info, err := c.ctx.GetTokenInfo(slot); err == nil && info.Label != "" {
			labels = append(labels, info.Label)
		}
	}
	slices.Sort(labels)
	return labels, nil
}

// slot returns the slot of a label, or the number that stands in its place.
func (c *caller) slot(label string) (uint, error) {
	if n, err := strconv.ParseUint(label, 10, 64); err == nil {
		return uint(n), nil
	}
	slots, err := c.ctx.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	for _, slot := range slots {
		if info, err := c.ctx.GetTokenInfo(slot); err == nil && info.Label == label {
			return slot, nil
		}
	}
	return 0, errors.New("no such slot")
}

// generate makes a P-256 pair with a CKA_ID.
func (c *caller) generate(s pkcs11.SessionHandle, id string) error {
	raw, err := hex.DecodeString(id)
	if err != nil {
		return err
	}
	_, _, err = c.ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, raw),
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}),
		},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, raw),
			pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		})
	return err
}

// find returns the handles of a class, of one CKA_ID or of all.
func (c *caller) find(s pkcs11.SessionHandle, class string, id ...string) ([]string, error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}
	if class == "public" {
		template = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY)}
	}
	if len(id) > 0 {
		raw, _ := hex.DecodeString(id[0])
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, raw))
	}
	if err := c.ctx.FindObjectsInit(s, template); err != nil {
		return nil, err
	}
	var all []uint
	for {
		some, _, err := c.ctx.FindObjects(s, 1)
		if err != nil {
			return nil, errors.Join(err, c.ctx.FindObjectsFinal(s))
		}
		if len(some) == 0 {
			break
		}
		all = append(all, uint(some[0]))
	}
	return texts(all), c.ctx.FindObjectsFinal(s)
}

var attributes = map[string]uint{
	"CKA_ID": pkcs11.CKA_ID, "CKA_EC_POINT": pkcs11.CKA_EC_POINT, "CKA_EXTRACTABLE": pkcs11.CKA_EXTRACTABLE,
	"CKA_ALWAYS_AUTHENTICATE": pkcs11.CKA_ALWAYS_AUTHENTICATE, "CKA_SIGN": pkcs11.CKA_SIGN,
}

// attribute reads two, so that the answer for one stands beside a true one.
func (c *caller) attribute(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, name string) ([]string, error) {
	as, err := c.ctx.GetAttributeValue(s, o, []*pkcs11.Attribute{
		pkcs11.NewAttribute(attributes[name], nil), pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
	if err != nil {
		return nil, err
	}
	return []string{hex.EncodeToString(as[0].Value)}, nil
}

// signMany signs on sessions of their own in several threads at once.
func (c *caller) signMany(label string, key pkcs11.ObjectHandle, threads, each string) error {
	slot, err := c.slot(label)
	if err != nil {
		return err
	}
	n, _ := strconv.Atoi(threads)
	times, _ := strconv.Atoi(each)
	errs := make(chan error, n)
	for range n {
		go func() {
			errs <- func() error {
				s, err := c.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
				if err != nil {
					return err
				}
				for range times {
					if err := c.ctx.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, key); err != nil {
						return err
					}
					if _, err := c.ctx.Sign(s, digest); err != nil {
						return err
					}
				}
				return c.ctx.CloseSession(s)
			}()
		}()
	}
	for range n {
		err = errors.Join(err, <-errs)
	}
	return err
}
