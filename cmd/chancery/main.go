// Command chancery is for the people around a signing daemon: issuers and
// authorities who have something signed, operators who watch and rotate keys,
// auditors who read the log, and anyone who wants to know whether a token is
// good.
//
// It talks to the daemon (chanceryd) and holds no key of its own but the
// certificate that says who asks. It exits with 0 when what was asked is done,
// 1 when it failed or something was found, and 2 when it was used wrongly.
//
//	chancery --dir dev sign jwt --keyset web --claims '{"sub":"alice"}'
//	chancery --dir dev rotation now web --reason 'quarterly' --watch
//	chancery --dir dev audit verify
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // whoever asks twice does not wait
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv}
	status := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}
