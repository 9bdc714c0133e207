package config

// GRPCLimits bound what gRPC may cost beside what DoorLimits bounds. What is not said
// is the listener's own default: see the package's documentation.
type GRPCLimits struct {
	Streams   int `yaml:"streams"`
	PerClient int `yaml:"per_client"`
	Calls     int `yaml:"calls"`
	InFlight  int `yaml:"in_flight"`
	Resets    int `yaml:"resets"`
}

// maxStreams is how many calls of one connection may be allowed to be open.
const maxStreams = 256

func (k checker) grpc(path string, l GRPCLimits, speaks bool) {
	if !k.has(path) {
		return
	}
	if !speaks {
		k.errorf(path, "remove it", "only the signing listener speaks gRPC")
		return
	}
	k.between(path+".streams", l.Streams, 1, maxStreams)
	k.between(path+".per_client", l.PerClient, 1, 1_000_000)
	k.between(path+".calls", l.Calls, 1, 1_000_000)
	k.between(path+".in_flight", l.InFlight, 1, 1024)
	k.between(path+".resets", l.Resets, 10, 1_000_000)
	if l.PerClient != 0 && l.Calls != 0 && l.PerClient > l.Calls {
		k.errorf(path+".per_client", "", "%d of one client are more than all calls, %d", l.PerClient, l.Calls)
	}
}
