package softhsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// typePINs runs cmd on a pseudo-terminal and types the next of pins whenever it
// asks for one. softhsm2-util takes PINs from its command line, which every
// user of the machine can read, or from a terminal; nothing else.
//
// The returned error carries what cmd printed, in which PINs never are: the
// terminal does not echo.
func typePINs(ctx context.Context, cmd *exec.Cmd, pins []string) error {
	master, slave, err := openTerminal()
	if err != nil {
		return fmt.Errorf("opening a pseudo-terminal: %w", err)
	}
	defer master.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	slave.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { master.Close() })
	defer stop()

	var said []byte // everything printed; it has been answered up to answered
	answered := 0
	buf := make([]byte, 1024)
	for {
		n, err := master.Read(buf)
		said = append(said, buf[:n]...)
		// "Please enter user PIN: " and "Please reenter user PIN: ".
		if i := bytes.LastIndex(said[answered:], []byte(" PIN: ")); i >= 0 {
			answered = len(said)
			if len(pins) == 0 {
				master.Close()
				err = errors.New("it asked for another PIN")
			} else if _, werr := master.WriteString(pins[0] + "\n"); werr == nil {
				pins = pins[1:]
			}
		}
		if err != nil { // EIO: the other side is closed
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.Join(bytes.Fields(said), []byte(" ")))
	}
	return nil
}

// openTerminal returns both ends of a new pseudo-terminal that does not echo.
func openTerminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	conn, err := master.SyscallConn()
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	var number int
	cerr := conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		master.Close()
		return nil, nil, err
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	if err := noEcho(int(slave.Fd())); err != nil {
		master.Close()
		slave.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

func noEcho(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Lflag &^= unix.ECHO | unix.ECHONL
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}
