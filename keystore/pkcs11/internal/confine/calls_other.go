//go:build !amd64 && !arm64

package confine

const (
	auditArch  = 0 // not supported: program assumes little-endian and clone's flags first
	foreignBit = 0
)

var forks, deniedHere []uint32
