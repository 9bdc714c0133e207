package rpc

import (
	"context"
	"crypto/sha256"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
	"chancery/signer/server"
)

// workers are the goroutines that are kept for calls, whose stacks have grown
// already. There is one more for each call beyond them.
const workers = 64

// A Server serves chancery.v1. It may be used concurrently.
type Server struct {
	server.Config
	limits Limits
	grpc   *grpc.Server
	open   atomic.Int64 // calls

	stopping chan struct{} // closed when no more is begun
	stop     sync.Once
	readers  sync.WaitGroup // of streams

	mu      sync.Mutex // guards what follows
	watches map[*watch]struct{}
	clients map[[sha256.Size]byte]*tally
}

// New returns a Server for the principals that c's Gate lets in. Of c, Entries is
// not used.
func New(c server.Config, lim Limits) *Server {
	c.Limits = c.Limits.OrDefaults()
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, string, time.Duration) {}
	}
	s := &Server{
		Config: c, limits: lim.withDefaults(), stopping: make(chan struct{}),
		watches: make(map[*watch]struct{}), clients: make(map[[sha256.Size]byte]*tally),
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(handshaken{}), grpc.ForceServerCodecV2(newCodec()), grpc.InTapHandle(tapped(c.Limits.RequestTimeout)),
		grpc.MaxConcurrentStreams(s.limits.Streams), grpc.MaxHeaderListSize(uint32(c.Limits.HeaderBytes)),
		grpc.MaxRecvMsgSize(int(max(c.Limits.MaxBody, c.Limits.MaxBatchBody))),
		// Windows that stay as they are: what a connection may have us hold is known.
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connectionWindow),
		grpc.ConnectionTimeout(c.Limits.ReadHeader), grpc.NumStreamWorkers(workers), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: s.limits.PingEvery}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: c.Limits.Idle, MaxConnectionAge: s.limits.Age,
			// Streams end by themselves before that.
			MaxConnectionAgeGrace: s.limits.StreamAge + c.Limits.RequestTimeout + c.Limits.Write,
			Time:                  c.Limits.Idle, Timeout: c.Limits.Write,
		}),
	)
	s.grpc.RegisterService(s.service(), nil)
	return s
}

// How many bytes of messages that nobody has read a client may send, on one call and
// on one connection.
const (
	streamWindow     = 64 << 10
	connectionWindow = 1 << 20
)

// Serve serves the connections of l, which a Door has shaken hands on, until
// Shutdown or until l is closed.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(watched{l, s}) }

// Shutdown begins nothing any more, lets what was begun end while ctx lasts, and cuts
// what is left then.
func (s *Server) Shutdown(ctx context.Context) {
	s.stop.Do(func() { close(s.stopping) })
	s.cut(func(w *watch) bool { return !w.greeted.Load() }) // gRPC would wait for their first words
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.cut(func(*watch) bool { return true })
		s.grpc.Stop()
		<-done
	}
	s.readers.Wait()
}

// cut closes connections.
func (s *Server) cut(which func(*watch) bool) {
	s.mu.Lock()
	var doomed []*watch
	for w := range s.watches {
		if which(w) {
			doomed = append(doomed, w)
		}
	}
	s.mu.Unlock()
	for _, w := range doomed {
		w.abort()
	}
}

// flooded enters that a connection was ended for what it did.
func (s *Server) flooded(c *connection, why error) {
	who, err := s.identify(c)
	if err == nil {
		err = api.Errorf(api.CodeOverloaded, "the connection was closed").Because(why)
	}
	s.Service.Refuse(keystore.Record{
		Principal: who.String(), Action: keystore.ActRequest,
		Detail: map[string]string{"route": serviceName, "certificate": policy.PinOf(c.tls.PeerCertificates[0])},
	}, err)
	s.Log.Warn("a gRPC connection was closed", "principal", who.String(), "err", why)
}

// identify returns who makes a call on c now; see server.Gate.Identify.
func (s *Server) identify(c *connection) (policy.Caller, error) {
	return c.visitor.Identify(s.Gate(), &c.tls, s.Now())
}
