package pkcs11

import "syscall"

// WorkerPID returns the process of the worker that serves, or 0.
func (p *Provider) WorkerPID() int {
	if g := p.ready.Load(); g != nil && !g.isEnded() {
		return g.cmd.Process.Pid
	}
	return 0
}

// SignalWorker sends a signal to the worker that serves.
func (p *Provider) SignalWorker(s syscall.Signal) error {
	return syscall.Kill(p.WorkerPID(), s)
}

// LabelOf is what a key's label must be.
var LabelOf = labelOf
