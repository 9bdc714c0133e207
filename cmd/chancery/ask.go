package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// errNotConfirmed: the one at the terminal did not say yes.
var errNotConfirmed = errors.New("not done: nobody said yes (hint: --yes does not ask)")

// confirm asks who sits at a terminal whether to go on. A script is not asked:
// what it runs is meant.
func (a *app) confirm(ctx context.Context, question string) error {
	in, ok := a.in.(*os.File)
	if !ok || !isTerminal(in) || !isTerminal(a.err) {
		return nil
	}
	return ask(ctx, in, a.err, question)
}

// ask returns nil if the answer is yes.
func ask(ctx context.Context, in io.Reader, out io.Writer, question string) error {
	fmt.Fprintf(out, "%s [yes/no] ", clean(question))
	answer, err := waiting(ctx, func() (string, error) { return bufio.NewReader(in).ReadString('\n') })
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return errNotConfirmed
	}
	return nil
}
